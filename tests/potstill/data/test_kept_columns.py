from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from potstill.config.evaluation_params import Slices
from potstill.config.prepare_params import Prepare
from potstill.data.preparation import Prepared, prepare
from potstill.errors import MissingColumnError
from potstill.evaluation.slices import find_slices
from potstill.kinds.definitions.task_kinds import KINDS
from tests.conftest import generate_rows

ROWS = generate_rows(200)


def _prepare(folder: Path, keep: list[str], *, tables: list[dict[str, object]] | None = None) -> Prepared:
    lines = [
        {
            "text": text,
            "label": label,
            "stars": index % 5,
            "code": f"00{index % 3}",
            "shop": None if index % 7 else "a",
            "author": "\ud83d" if index % 2 else "b",
            "views": 10**400 if index == 3 else index,
        }
        for index, (text, label) in enumerate(ROWS)
    ]
    (folder / "s").mkdir()
    (folder / "s" / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    params = {
        "tables": tables or [{"source": "s"}],
        "text": "text",
        "label": {"kind": "column", "column": "label"},
        "keep_columns": keep,
    }
    return prepare(folder, Prepare.model_validate(params))


def test_kept_columns_stay_with_their_rows(tmp_path: Path) -> None:
    found = _prepare(tmp_path, ["stars", "code", "shop", "source"])
    stars = {text: index % 5 for index, (text, _) in enumerate(ROWS)}
    for split in ("train", "dev", "test", "transfer"):
        table = found.table(split)
        assert [str(table.schema.field(name).type) for name in ("stars", "code", "shop", "source")] == [
            "double",
            "string",
            "string",
            "string",
        ]
    test = found.table("test").to_pylist()
    assert test
    assert all(row["stars"] == stars[row["text"]] and row["code"].startswith("00") for row in test)
    assert {row["source"] for row in test} == {"s"}
    assert {row["shop"] for row in found.table("train").to_pylist()} == {None, "a"}


def test_half_a_character_and_a_number_beyond_all_are_kept_as_texts(tmp_path: Path) -> None:
    rows = _prepare(tmp_path, ["author", "views"]).table("train").to_pylist()
    assert {row["author"] for row in rows} == {"\ufffd", "b"}
    assert all(isinstance(row["views"], str) for row in rows)


def test_without_the_key_nothing_changes(tmp_path: Path) -> None:
    assert _prepare(tmp_path, []).table("test").column_names == ["id", "text", "label"]


def test_constants_can_be_kept(tmp_path: Path) -> None:
    table = {"source": "s", "constants": {"source": "shop", "year": 2020}}
    rows = _prepare(tmp_path, ["source", "year"], tables=[table]).table("dev").to_pylist()
    assert {(row["source"], row["year"]) for row in rows} == {("shop", 2020)}


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingColumnError, match=r"has no column 'star'; did you mean 'stars'"):
        _prepare(tmp_path, ["star"])


def test_they_make_slices(tmp_path: Path) -> None:
    found = _prepare(tmp_path, ["stars", "source"])
    pq.write_table(found.table("test"), tmp_path / "test.parquet")
    settings = Slices(length_bands=2, columns=["source"], expressions={"poor": "stars <= 1"}, min_rows=2)
    names = [str(label) for label in found.labels]
    table = pq.read_table(tmp_path / "test.parquet")
    parts = {part.name: part.rows for part in find_slices(table, settings, KINDS["single_label"], names)}
    rows = found.table("test").to_pylist()
    assert parts["source = s"] == len(rows)
    assert parts["poor"] == sum(row["stars"] <= 1 for row in rows)
    assert sum(count for name, count in parts.items() if name.startswith("label")) == len(rows)
