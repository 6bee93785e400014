from __future__ import annotations

from typing import Any

import pytest

from potstill.config.prepare_params import LabelColumn, LabelSign
from potstill.data.formats.tabular import Table
from potstill.data.label_cells import read_labels
from potstill.errors import LabelError
from potstill.labels.names import LabelNames, label_set, normal_label

COLUMN = LabelColumn(kind="column", column="y")


def table(values: list[Any], names: list[str] | None = None) -> Table:
    return Table("a.csv", {"y": values}, range(2, len(values) + 2), class_names={"y": names} if names else {})


def read(values: list[Any], labels: list[str | int] | None = None, names: list[str] | None = None) -> list[str | None]:
    return read_labels(table(values, names), range(len(values)), COLUMN, labels)


@pytest.mark.parametrize(("value", "key"), [(1, "1"), ("1", "1"), (1.0, "1"), ("1.0", "1"), (" -2 ", "-2"), (True, "1"),
                                            ("01", "01"), ("-0", "-0"), ("1.5", "1.5"), ("yes ", "yes")])  # fmt: skip
def test_label_key(value: object, key: str) -> None:
    assert normal_label(value) == key


@pytest.mark.parametrize("name", ["cafe\u0301", " café\u00a0", "\ufeffcafé", "café\u3000", "café\n"])
def test_names_are_compared_in_nfc_without_blanks_around_them(name: str) -> None:
    assert normal_label(name) == "café"
    assert LabelNames(["café", "thé"]).find(name) == "café"


def test_letter_case_aside_only_where_that_is_one_label() -> None:
    names = LabelNames(["Billing", "right", "Right", 1])
    assert [names.find(name) for name in ("BILLING", "right", "Right", " Right", "RIGHT", "1.0", True, "bilings")] == [
        "Billing", "right", "Right", "Right", None, 1, 1, None,
    ]  # fmt: skip
    assert names.near("bilings") == "Billing"
    assert names.near("xyz") is None


def test_an_exact_name_wins_over_its_normal_form() -> None:
    assert LabelNames(["a ", "a"]).find("a ") == "a "
    assert LabelNames(["a ", "a"]).find("a\n") is None


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
