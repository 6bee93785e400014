"""Labels that are several, numbers, or the order of two numbers: from tables to prepared splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.config.prepare_params import Prepare
from potstill.data.preparation import Prepared, prepare
from potstill.data.tokens.batches import fill_labels, label_array, label_column
from potstill.errors import LabelError, OneClassError, ParamsError, SmallClassError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from tests.conftest import generate_rows

TEXTS = [text for text, _ in generate_rows(200)]


def prepared(folder: Path, rows: list[dict[str, Any]], **params: Any) -> Prepared:
    (folder / "s").mkdir()
    (folder / "s" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return prepare(folder, Prepare.model_validate({"tables": [{"source": "s"}], "text": "text"} | params))


def several(value: Any, **label: Any) -> dict[str, Any]:
    return {"task": "multi_label", "label": {"kind": "column", "column": "y"} | label}


LISTS = [["a", "b"], ["b"], [], ["c", "a"]]
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lists": (lambda keys: {"y": keys}, {"kind": "column", "column": "y"}),
    "strings": (lambda keys: {"y": "; ".join(keys)}, {"kind": "column", "column": "y", "separator": ";"}),
    "columns": (lambda keys: {key: int(key in keys) for key in "abc"}, {"kind": "columns", "columns": ["a", "b", "c"]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_several_labels_of_a_row_in_every_form(form: str, tmp_path: Path) -> None:
    cells, label = FORMS[form]
    truth = {text: LISTS[at % 4] for at, text in enumerate(TEXTS)}
    rows = [{"text": text} | cells(keys) for text, keys in truth.items()]
    result = prepared(tmp_path, rows, task="multi_label", label=label)
    assert result.labels == ["a", "b", "c"]
    table = result.table("train")
    assert table.schema.field("label").type == pa.list_(pa.int8())
    for row in table.to_pylist():
        assert row["label"] == [int(key in truth[row["text"]]) for key in "abc"]
    assert set(result.report["splits"]["train"]["classes"]) == {"a", "b", "c"}


def test_ranges_of_a_number(tmp_path: Path) -> None:
    ranges = {"low": [[-4, -1]], "high": [[1, 4]], "strong": [[-4, -2], [2, 4]]}
    rows = [{"text": text, "y": (-3.0, -1.0, 0.0, 1.5, 2.0)[at % 5]} for at, text in enumerate(TEXTS)]
    label = {"kind": "ranges", "column": "y", "ranges": ranges}
    result = prepared(tmp_path, rows, task="multi_label", label=label)
    assert result.labels == ["low", "high", "strong"]
    truth = {row["text"]: row["y"] for row in rows}
    flags = {truth[row["text"]]: row["label"] for row in result.table("train").to_pylist()}
    assert flags == {-3.0: [1, 0, 1], -1.0: [1, 0, 0], 0.0: [0, 0, 0], 1.5: [0, 1, 0], 2.0: [0, 1, 1]}


NUMBER = {"task": "regression", "label": {"kind": "number", "column": "y", "range": [-4, 4]}}


def test_numbers_and_the_mean_of_copies(tmp_path: Path) -> None:
    rows = [{"text": text, "y": at % 8 - 3.5} for at, text in enumerate(TEXTS)]
    rows.append({"text": TEXTS[0].upper(), "y": 0.5})
    result = prepared(tmp_path, rows, near_duplicate=None, **NUMBER)
    assert result.labels == ["score"]
    found = {row.text: row.label for split in result.splits.values() for row in split}
    assert len(found) == 200
    assert found[TEXTS[0]] == -1.5
    assert result.table("dev").schema.field("label").type == pa.float32()
    assert result.report["splits"]["test"]["numbers"]["lowest"] == -3.5
    assert result.report["removed"]["contradicting labels"] == 0


def test_pairs_ordered_by_a_number(tmp_path: Path) -> None:
    rows = [{"text": text, "y": float(at % 9)} for at, text in enumerate([*TEXTS, TEXTS[0]])]
    label = {"kind": "order", "column": "y", "min_gap": 2.0}
    result = prepared(tmp_path, rows, label=label, labels=["first", "second"])
    assert result.pair
    truth = {row["text"]: row["y"] for row in reversed(rows)}
    seen: list[str] = []
    for split, held in result.splits.items():
        for row in held:
            assert row.text_pair is not None
            seen += row.texts
            gap = truth[row.text] - truth[row.text_pair]
            assert (row.label is None) == (abs(gap) < 2) == (split == "transfer")
            assert row.label in (None, "first" if gap > 0 else "second")
    assert len(seen) == len(set(seen)) == 200
    assert result.report["unclear"] == len(result.splits["transfer"]) > 0


@pytest.mark.parametrize(
    ("rows", "params", "error", "words"),
    [
        ([{"y": "a"}], several("a"), LabelError, "'a' in 'y' is no list of labels; give a list, or set"),
        ([{"y": None}], several("a"), LabelError, "has no label in column 'y'"),
        ([{"y": ["d"]}], several("a") | {"labels": ["a", "b"]}, LabelError, "'d' is not one of prepare.labels"),
        (
            [{"a": 2, "b": 0}],
            {"task": "multi_label", "label": {"kind": "columns", "columns": ["a", "b"]}},
            LabelError,
            "2.* in the label column 'a' is neither 0 nor 1",
        ),
        ([{"y": "much"}], NUMBER, LabelError, "'much' in 'y' is no number"),
        ([{"y": None}], NUMBER, LabelError, "is no number"),
        (
            [{"y": 1e39}],
            NUMBER | {"label": {"kind": "number", "column": "y"}},
            LabelError,
            "is no number, or one beyond",
        ),
        ([{"y": 10**400}], NUMBER, LabelError, "is no number"),
        ([{"y": 5}], NUMBER, LabelError, r"5 in 'y' is outside prepare.label.range \[-4.0, 4.0\]"),
        ([{"y": 1}, {"y": 1}], NUMBER, OneClassError, "carry the label 1.0"),
        ([{"y": 1}, {"y": 2}], NUMBER, SmallClassError, "no two different numbers"),
        ([{"y": ["a"]}, {"y": ["a"]}], several("a"), OneClassError, "carry the label 'a'"),
        ([{"y": ["a"]}, {"y": []}], several("a"), OneClassError, "'a' is the only label of the data.* single_label"),
        ([{"y": ["a"]}, {"y": ["b"]}], several("a"), SmallClassError, r"2 classes: 'a' \(1 row, none in"),
    ],
)
def test_labels_that_do_not_fit(
    rows: list[dict[str, Any]], params: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        prepared(tmp_path, [{"text": text} | row for text, row in zip(TEXTS, rows, strict=False)], **params)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prepare.task": "regression"}, "label.kind is sign, which does not fit a regression task; use number"),
        ({"prepare.task": "multi_label"}, "use column or columns or ranges"),
        ({"prepare.label": {"kind": "column", "column": "y", "separator": ","}}, "set task to multi_label"),
        ({"prepare.label": {"kind": "order", "column": "y"}}, "augment changes single texts; set it to null for pairs"),
        (
            {"prepare.label": {"kind": "order", "column": "y", "first": "a", "second": "a"}, "prepare.augment": None},
            "first and second are the same label",
        ),
        ({"validate.target": [0, 1]}, "validate.target bounds the numbers of a regression"),
        ({"gate.max_mse": 1.0}, "gate.max_mse is for regression, but prepare.task is single_label; set it to null"),
        ({"gate.min_micro_f1": 0.5}, "gate.min_micro_f1 is for multi_label"),
        ({"prepare.labels": ["a", "b"]} | {"prepare.task": "regression", "prepare.label": NUMBER["label"]},
         "label.kind number defines the labels itself; remove labels"),
        ({"prepare.labels": None, "prepare.task": "regression", "prepare.label": NUMBER["label"]},
         "gate.min_accuracy is for single_label, but prepare.task is regression"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task_is_refused_in_params(changes: dict[str, Any], words: str) -> None:
    from potstill.config.params_file import parse_params
    from potstill.config.yaml_file import read_params
    from tests.conftest import REPOSITORY

    params = read_params(REPOSITORY / "params.yaml")
    for path, value in changes.items():
        section, key = path.split(".")
        params[section][key] = value
    with pytest.raises(ParamsError, match=words):
        parse_params(params)


def test_classes_of_a_regression_are_refused_in_validate() -> None:
    from potstill.config.params_file import parse_params
    from potstill.config.yaml_file import read_params
    from tests.conftest import REPOSITORY

    params = read_params(REPOSITORY / "params.yaml") | read_params(REPOSITORY / "params" / "rating.yaml")
    params["validate"]["min_per_class"] = 5
    with pytest.raises(ParamsError, match=r"validate\.min_per_class is for classes, but a regression task has none"):
        parse_params(params)


@pytest.mark.parametrize(
    ("task", "column", "labels"),
    [
        ("single_label", pa.array([1, None, 0], pa.int64()), [1, -1, 0]),
        ("multi_label", pa.array([[1, 0], None], pa.list_(pa.int8())), [[1, 0], [-1, -1]]),
        ("regression", pa.array([0.5, None], pa.float32()), [0.5, np.nan]),
        ("multi_label", pa.array([], pa.list_(pa.int8())), np.empty((0, 2))),
        ("regression", pa.array([], pa.float32()), []),
    ],
)
def test_a_prepared_label_column_as_tokens_and_as_an_array(
    task: TaskKind, column: pa.Array, labels: Any, tmp_path: Path
) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"label": column}), path)
    read = pq.read_table(path).column("label")
    filled = fill_labels(read.combine_chunks(), KINDS[task].token_column(2))
    found = label_array(pa.chunked_array([filled]))
    np.testing.assert_array_equal(found, np.array(labels))
    assert found.dtype == (np.float32 if task == "regression" else np.int64)
    if not column.null_count and len(column):
        np.testing.assert_array_equal(label_array(read), found)
    assert label_column(found).type == column.type
