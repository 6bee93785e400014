from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from potstill.data.formats.tables import read_file
from potstill.data.formats.tabular import Table
from potstill.errors import FormatError


def table(tmp_path: Path, rows: Any, name: str = "a.json") -> Table:
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_file(path)


def choices(*names: str) -> dict[str, Any]:
    return {"from_name": "sentiment", "type": "choices", "value": {"choices": list(names)}}


def labelled(start: int, end: int, kind: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": "x", "labels": [kind]}
    return {"from_name": "entity", "type": "labels", "value": value}


def task(text: str, *annotations: list[dict[str, Any]], cancelled: bool = False) -> dict[str, Any]:
    done = [{"result": result, "was_cancelled": cancelled} for result in annotations]
    return {"id": 1, "data": {"text": text}, "annotations": done, "predictions": []}


def test_label_studio_choices_and_disagreement(tmp_path: Path) -> None:
    rows = [
        task("one", [choices("good")]),
        task("two", [choices("good")], [choices("bad")]),
        task("three", [choices("bad")], [choices("bad")]),
        task("four", [choices("bad")], cancelled=True),
        task("five"),
    ]
    read = table(tmp_path, rows)
    assert read.tool == "Label Studio"
    assert read.column("text") == ["one", "two", "three", "four", "five"]
    assert read.column("sentiment") == [["good"], None, ["bad"], None, None]
    assert read.undecided == {1: "annotators do not agree"}


def test_label_studio_spans_and_texts_without_any(tmp_path: Path) -> None:
    read = table(tmp_path, [task("Ann in Bath", [labelled(0, 3, "PER"), labelled(7, 11, "LOC")]), task("no", [])])
    assert read.column("entity") == [
        [{"start": 0, "end": 3, "label": "PER"}, {"start": 7, "end": 11, "label": "LOC"}],
        [],
    ]


def test_label_studio_name_that_the_data_has_too(tmp_path: Path) -> None:
    row = task("one", [{"from_name": "text", "type": "choices", "value": {"choices": ["a"]}}])
    read = table(tmp_path, [row])
    assert read.column("text") == ["one"]
    assert read.column("annotations.text") == [["a"]]


def response(value: Any, status: str = "submitted") -> dict[str, Any]:
    return {"value": value, "status": status, "user_id": "u"}


def test_argilla_records(tmp_path: Path) -> None:
    rows = [
        {"fields": {"text": "one"}, "responses": {"label": [response("a"), response("b", "discarded")]}},
        {"fields": {"text": "two"}, "responses": {"label": [response("a"), response("b")]}},
        {"fields": {"text": "three"}, "responses": {}, "suggestions": {"label": {"value": "a"}}},
    ]
    read = table(tmp_path, rows, "a.jsonl")
    assert read.tool == "Argilla"
    assert read.column("text") == ["one", "two", "three"]
    assert read.column("label") == ["a", None, None]  # a suggestion is no answer
    assert read.undecided == {1: "annotators do not agree"}


def test_argilla_flattened(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "label.responses": ["a"], "label.responses.status": ["submitted"], "label.suggestion": "b"},
        {"text": "two", "label.responses": ["a", "b"], "label.responses.status": ["submitted", "draft"]},
        {"text": "three", "label.responses": None, "label.responses.status": None},
    ]
    read = table(tmp_path, rows, "a.jsonl")
    assert read.column("label") == ["a", "a", None]


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "text": "Ann", "label": [[0, 3, "PER"]]},
        {"id": 1, "text": "Ann", "entities": [{"id": 1, "label": "PER", "start_offset": 0, "end_offset": 3}]},
    ],
)
def test_doccano_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    assert table(tmp_path, [row], "a.jsonl").tool == "doccano"


@pytest.mark.parametrize(
    "rows",
    [
        [task("a", [{"type": "taxonomy", "value": {"taxonomy": [[]]}}])],
        [task("a", [{"type": "choices", "value": {"choices": "good"}}])],
        [task("a", []), {"data": {"text": "b"}, "annotations": 5}],
    ],
)
def test_an_export_in_another_form_is_one_sentence(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(FormatError, match="looks like the export of an annotation tool"):
        table(tmp_path, rows)


def test_plain_rows_are_no_export(tmp_path: Path) -> None:
    read = table(tmp_path, [{"text": "a", "answer": "accept", "label": 1}, {"text": "b", "answer": "no", "label": 0}])
    assert (read.tool, read.undecided) == (None, {})
