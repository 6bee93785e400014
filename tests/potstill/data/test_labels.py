from __future__ import annotations

from typing import Any

import pytest

from potstill.config import LabelColumn, LabelSign
from potstill.data.labels import label_key, label_set, read_labels
from potstill.data.tables import Table
from potstill.errors import LabelError

COLUMN = LabelColumn(kind="column", column="y")


def table(values: list[Any], names: list[str] | None = None) -> Table:
    return Table("a.csv", {"y": values}, range(2, len(values) + 2), class_names={"y": names} if names else {})


def read(values: list[Any], labels: list[str | int] | None = None, names: list[str] | None = None) -> list[str | None]:
    return read_labels(table(values, names), range(len(values)), COLUMN, labels)


@pytest.mark.parametrize(("value", "key"), [(1, "1"), ("1", "1"), (1.0, "1"), ("1.0", "1"), (" -2 ", "-2"), (True, "1"),
                                            ("01", "01"), ("-0", "-0"), ("1.5", "1.5"), ("yes ", "yes")])  # fmt: skip
def test_label_key(value: object, key: str) -> None:
    assert label_key(value) == key


def test_integers_of_a_csv_are_the_declared_integers() -> None:
    assert read(["0", "3", "3.0"], [3, 0]) == ["0", "3", "3"]


def test_label_set_is_declared_or_sorted() -> None:
    assert label_set(["b", "a"], ["b", "a"]) == ["b", "a"]
    assert label_set(["10", "9", "-1"], None) == [-1, 9, 10]
    assert label_set(["10", "9", "x"], None) == ["10", "9", "x"]


def test_label_outside_the_set_names_row_and_set() -> None:
    with pytest.raises(LabelError, match=r"a\.csv, line 3: label 'maybe' is not one of prepare\.labels \(no, yes\)"):
        read(["yes", "maybe"], ["no", "yes"])


@pytest.mark.parametrize("gap", [None, "", "  ", float("nan")])
def test_missing_label_names_the_row(gap: object) -> None:
    with pytest.raises(LabelError, match="line 2 has no label in column 'y'"):
        read([gap])


def test_class_names_of_a_saved_dataset() -> None:
    assert read([0, 1], None, ["bad", "good"]) == ["bad", "good"]
    assert read([0, 1], [0, 1], ["bad", "good"]) == ["0", "1"]


def test_sign_with_unclear_rows() -> None:
    sign = LabelSign(kind="sign", column="y", unclear_below=0.5)
    assert read_labels(table(["0.5", "-0.5", "0.4", "-4", "0"]), range(5), sign, None) == [
        "positive", "negative", None, "negative", None,
    ]  # fmt: skip
    assert read_labels(table([0.0, 0.1]), range(2), LabelSign(kind="sign", column="y"), None) == [None, "positive"]


@pytest.mark.parametrize("rating", ["good", "", None, "nan", "inf", float("nan")])
def test_rating_that_is_no_number(rating: object) -> None:
    with pytest.raises(LabelError, match=r"line 2: .* is no number"):
        read_labels(table([rating]), range(1), LabelSign(kind="sign", column="y"), None)
