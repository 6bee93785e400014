from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.data.proposals.table_summaries import summarize_files
from potstill.errors import FormatError
from tests.conftest import REPOSITORY

CASES = REPOSITORY / "tests" / "cases"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("d01/spam.csv", {"v1": "text", "v2": "text"}),
        ("d03/doccano.jsonl", {"id": "integer", "text": "text", "label": "labels"}),
        ("d03e/prodigy.jsonl", {"text": "text", "accept": "labels", "answer": "text"}),
        ("d04/multi.csv", {"text": "text", "label": "labels"}),
        ("d23/train.conll", {"tokens": "words", "pos_tags": "words", "chunk_tags": "tags", "ner_tags": "tags"}),
        ("d23c/ints.jsonl", {"tokens": "words", "ner_tags": "tags"}),
        ("d26/num.csv", {"text": "text", "label": "number"}),
        (
            "d24c/train-v2.0.json",
            {"id": "integer", "title": "text", "question": "text", "context": "text", "answers": "answers"},
        ),
    ],
)
def test_kinds_of_columns(name: str, kinds: dict[str, str]) -> None:
    (look,) = summarize_files(CASES / name)
    assert {column.name: column.kind for column in look.columns} == kinds


def test_labels_in_cells_are_counted() -> None:
    (look,) = summarize_files(CASES / "d03c" / "ls.csv")
    sentiment = look.column("sentiment")
    assert (sentiment.kind, sentiment.as_text, sentiment.several) == ("labels", True, 45)
    assert sentiment.values == {"spam": 230, "ham": 215}


def test_paths_into_objects_and_gaps(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"ticket": {"body": "a text", "stars": 3}},
        {"ticket": {"stars": "nan"}},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (look,) = summarize_files(tmp_path / "a.jsonl")
    body, stars = look.columns
    assert (body.name, body.rows, body.missing, body.longest) == ("ticket.body", 1, 1, 6)
    assert (stars.name, stars.rows, stars.missing_words) == ("ticket.stars", 2, 1)


def test_splits_by_the_names_of_files() -> None:
    looks = summarize_files(CASES / "d07")
    assert {look.table.split: look.rows for look in looks} == {"test": 60, "train": 300, "dev": 60}
    assert {look.table.split for look in summarize_files(CASES / "d07", ignore_splits=True)} == {None}


def test_a_file_without_a_header_is_refused(tmp_path: Path) -> None:
    rows = [f"film number {index},{'negative' if index % 2 else 'positive'}" for index in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(FormatError, match="'positive' is also a value of that column in 9 rows; add a first line"):
        summarize_files(tmp_path / "a.csv")


@pytest.mark.parametrize("header", ["0,1", "How did you like it?,positive"])
def test_unusual_names_of_columns_are_names(header: str, tmp_path: Path) -> None:
    rows = ["I loved this film,1", "dull and slow,0", "a joy,1", "no plot,0"] * 5
    (tmp_path / "a.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    (look,) = summarize_files(tmp_path / "a.csv")
    assert ",".join(column.name for column in look.columns) == header
