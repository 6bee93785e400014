from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as some
from pydantic import ValidationError

from potstill.config.evaluation_params import Evaluate, Slices
from potstill.errors import MissingColumnError, ParamsError
from potstill.evaluation.slices import Slice, SliceReport, find_slices, judge_slices
from potstill.evaluation.summary import Answers
from potstill.kinds.definitions.task_kinds import KINDS

QUICK = Evaluate(bootstrap=100)
ROWS = 2000
RIVALS = ("teacher", "champion", "control")


def _class_answers(right: np.ndarray, labels: np.ndarray) -> Answers:
    logits = np.zeros((len(labels), 2), dtype=np.float32)
    logits[np.arange(len(labels)), np.where(right, labels, 1 - labels)] = 2
    return Answers(logits, 1.0, parameters=10, file_bytes=10)


def _parts(random: np.random.Generator, rows: int = ROWS, planted: int = 300) -> list[Slice]:
    """Bands of the length, two labels, sources that overlap with them, and the planted slice."""
    band = random.integers(4, size=rows)
    source = random.integers(3, size=rows)
    label = random.integers(2, size=rows)
    parts = [Slice(f"length {at}", band == at) for at in range(4)]
    parts += [Slice(f"label {at}", label == at) for at in range(2)] + [
        Slice(f"s {at}", source == at) for at in range(3)
    ]
    return [*parts, Slice("planted", np.arange(rows) < planted)]


# --- error rates ------------------------------------------------------------------------------------------------------


def _trial(random: np.random.Generator, *, drop: float) -> SliceReport:
    """A champion that is right on 88%, rivals and a candidate that differ from it on 2% of the rows, either way."""
    labels = random.integers(2, size=ROWS)
    base = random.random(ROWS) < 0.88
    models = {}
    for name in ("int8", *RIVALS):
        flips = random.random(ROWS) < 0.02
        right = base ^ flips
        if name == "int8":
            planted = np.flatnonzero(right[:300])
            right[random.choice(planted, size=round(drop * 300), replace=False)] = False
        models[name] = _class_answers(right, labels)
    return judge_slices(_parts(random), labels, models, "int8", RIVALS, QUICK, seed=1)


def _outcomes(report: SliceReport, name: str) -> list[str]:
    return [found.outcome for part in report.slices if part.name == name for found in part.rivals.values()]


@pytest.mark.slow
def test_a_drop_of_ten_points_on_300_rows_is_found() -> None:
    reports = [_trial(np.random.default_rng(seed), drop=0.1) for seed in range(100)]
    for rival in range(3):
        assert np.mean([_outcomes(report, "planted")[rival] == "LOSES" for report in reports]) >= 0.95
    assert all("worse than champion on planted" in " ".join(report.sentences()) for report in reports[:5])


@pytest.mark.slow
def test_an_equal_model_is_called_worse_on_any_slice_in_at_most_five_percent() -> None:
    reports = [_trial(np.random.default_rng(1000 + seed), drop=0) for seed in range(200)]
    worse = [any("LOSES" in _outcomes(report, part.name) for part in report.slices) for report in reports]
    better = [any("BEATS" in _outcomes(report, part.name) for part in report.slices) for report in reports]
    assert np.mean(worse) <= 0.05
    assert np.mean(better) <= 0.05


def test_a_model_does_not_differ_from_itself() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(2, size=ROWS)
    answers = _class_answers(random.random(ROWS) < 0.8, labels)
    for seed in range(5):
        rows = np.random.default_rng(seed).integers(ROWS, size=ROWS)
        resampled = Answers(answers.logits[rows], 1.0, 10, 10)
        models = {"int8": resampled, "champion": resampled}
        report = judge_slices(_parts(random), labels[rows], models, "int8", ["champion"], QUICK, seed=seed)
        found = [part.rivals["champion"] for part in report.slices]
        assert {(one.outcome, one.difference, one.p_value) for one in found} == {("NO DIFFERENCE", 0, 1)}


def test_a_score_that_is_no_share_of_rows() -> None:
    random = np.random.default_rng(5)
    gold = random.integers(2, size=(ROWS, 4))
    logits = np.where(random.random((ROWS, 4)) < 0.9, 2 * gold - 1, 1 - 2 * gold).astype(np.float32)
    worse = logits.copy()
    worse[:300] = np.where(random.random((300, 4)) < 0.15, -logits[:300], logits[:300])
    models = {
        name: Answers(values, 1.0, 10, 10, "multi_label")
        for name, values in (("int8", worse), ("champion", logits), ("teacher", logits))
    }
    settings = Evaluate(bootstrap=1000)
    report = judge_slices(_parts(random), gold, models, "int8", ["champion", "teacher"], settings, seed=0)
    assert report.score == "micro_f1"
    planted = next(part for part in report.slices if part.name == "planted")
    assert planted.rivals["champion"].outcome == "LOSES"
    assert planted.low < planted.score < planted.high
    assert planted.rivals["champion"] == planted.rivals["teacher"]
    assert planted.rivals["champion"].high < 0


def test_numbers_too() -> None:
    random = np.random.default_rng(6)
    gold = random.normal(size=ROWS).astype(np.float32)
    models = {
        name: Answers((gold + random.normal(size=ROWS) * noise)[:, None].astype(np.float32), 1.0, 10, 10, "regression")
        for name, noise in (("int8", 0.5), ("champion", 0.2))
    }
    report = judge_slices(_parts(random), gold, models, "int8", ["champion"], QUICK, seed=0)
    assert report.score == "r2"
    # With 100 resamples no p value is below 2/101, yet all slices together are.
    assert {part.rivals["champion"].outcome for part in report.slices} == {"LOSES"}


def test_the_report_is_plain_values() -> None:
    report = _trial(np.random.default_rng(1), drop=0.1)
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert values["comparisons"] == len(report.slices) * 3
    assert values["slices"][0]["rivals"]["teacher"].keys() >= {"outcome", "difference", "low", "high", "p_value"}
    assert all(found.adjusted_p_value >= found.p_value for part in report.slices for found in part.rivals.values())


# --- which rows -------------------------------------------------------------------------------------------------------


def _table(**columns: list[object]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    base = {
        "id": [str(row) for row in range(rows)],
        "text": ["x" * (row + 1) for row in range(rows)],
        "label": [row % 2 for row in range(rows)],
    }
    return pa.table(base | columns)


def _named(table: pa.Table, *, length_bands: int | None = None, **settings: object) -> dict[str, int]:
    parts = find_slices(table, Slices(length_bands=length_bands, **settings), KINDS["single_label"], ["bad", "good"])  # type: ignore[arg-type]
    return {part.name: part.rows for part in parts}


def test_lengths_are_divided_by_limits_or_quantiles() -> None:
    table = _table(stars=[1.0] * 8)
    assert _named(table, length_limits=[3, 6], label=False) == {
        "length below 3": 2,
        "length 3 to 5": 3,
        "length from 6": 3,
    }
    assert list(_named(table, length_bands=4, label=False).values()) == [2, 2, 2, 2]
    assert _named(table, length_limits=[100], label=False) == {"length below 100": 8, "length from 100": 0}


@hypothesis_settings(max_examples=50, deadline=None)
@given(lengths=some.lists(some.integers(1, 40), min_size=1, max_size=60), bands=some.integers(2, 20))
def test_every_row_is_in_one_band(lengths: list[int], bands: int) -> None:
    table = _table(text=["x" * length for length in lengths])
    parts = find_slices(table, Slices(length_bands=bands, label=False), KINDS["single_label"], ["bad", "good"])
    assert (sum(part.flags.astype(int) for part in parts) == 1).all()
    assert all(part.rows for part in parts)


def test_labels_of_each_task() -> None:
    assert _named(_table(stars=[1.0] * 3)) == {"label = bad": 2, "label = good": 1}

    def found(task: str, labels: list[object], names: list[str]) -> dict[str, int]:
        parts = find_slices(_table(label=labels), Slices(length_bands=None), KINDS[task], names)  # type: ignore[arg-type]
        return {part.name: part.rows for part in parts}

    flags = [[1, 1], [0, 1], [0, 0]]
    assert found("multi_label", flags, ["a", "b"]) == {"label = a": 1, "label = b": 2}
    tags = [[[0, 3, 1], [3, 5, 2]], [[0, 2, 0]], [[0, 2, 3]]]
    names = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert found("token_classification", tags, names) == {"label = LOC": 1, "label = PER": 1}
    assert found("question_answering", [[[0, 1]], []], ["start", "end"]) == {
        "label = answer": 1,
        "label = no answer": 1,
    }
    assert found("regression", [0.5, 1.5], ["score"]) == {}


def test_values_of_a_column() -> None:
    table = _table(source=["a"] * 5 + ["b"] * 4 + ["c", None])
    found = _named(table, label=False, columns=["source"], min_rows=4)
    assert found == {"source = a": 5, "source = b": 4, "source: other values": 2}
    numbers = _named(_table(stars=[1.0, 1.0, 2.5, 2.5]), label=False, columns=["stars"], min_rows=2)
    assert numbers == {"stars = 1": 2, "stars = 2.5": 2}
    shops = [1234567.0, 1234567.0, 1234568.0, 1234568.0, None]  # whole numbers, one of them missing
    assert set(_named(_table(shop=shops), label=False, columns=["shop"], min_rows=2)) == {
        "shop = 1234567", "shop = 1234568", "shop: other values",
    }  # fmt: skip
    with pytest.raises(ParamsError, match="'source', of which 2 values have at least 4 test rows"):
        _named(table, columns=["source"], min_rows=4, max_values=1)


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("length < 3", [0, 1]),
        ('label == "good" and length <= 4', [1, 3]),
        ("not (stars >= 2) or length == 6", [0, 5]),
        ('source in ["a", "c"]', [0, 1, 4]),
        ('source not in ("a", "b", "c")', [5]),
        ("1 < length <= 3", [1, 2]),
        ("length % 2 == 0 and -stars < -4", [5]),
        ('source == "nowhere"', []),
        ("length / stars > 1000", []),
    ],
)
def test_expressions(expression: str, rows: list[int]) -> None:
    table = _table(stars=[1.0, 2, 3, 4, None, 5], source=["a", "a", "b", "b", "c", None])
    parts = find_slices(
        table,
        Slices(length_bands=None, label=False, expressions={"mine": expression}),
        KINDS["single_label"],
        ["bad", "good"],
    )
    expected = set(rows) | ({4} if expression.startswith("not") else set())  # `not` of a missing value is true
    assert set(np.flatnonzero(parts[0].flags).tolist()) == expected


@pytest.mark.parametrize(
    "expression",
    [
        '__import__("os").system("true")',
        "text.str.len() > 3",
        "@length > 3",
        "length.__class__ == 1",
        "[x for x in length]",
        "length ** 99999999 > 1",
        "length",
        "1 < 2",
        "length +",
        "(lambda: length)() > 1",
        "length if length else length",
        '"a" in text',
        "-length",
        "f'{length}' == 'a'",
        "text[0] == 'a'",
        "(length := 3) > 1",
        "length is None",
        "length == True",
        "x" * 2000 + " > 1",
        "(" * 300 + "length" + ")" * 300 + " > 1",
    ],
)
def test_what_is_no_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValidationError, match=r"expressions\.mine"):
        Slices(expressions={"mine": expression})


def test_an_expression_cannot_take_the_name_of_another_slice() -> None:
    settings = Slices(length_bands=None, label=True, expressions={"label = good": "length < 3"})
    with pytest.raises(ParamsError, match="the name 'label = good', which a slice by length, label or column has too"):
        find_slices(_table(stars=[1.0, 2.0]), settings, KINDS["single_label"], ["bad", "good"])


def test_an_unknown_column_names_those_that_there_are() -> None:
    table = _table(stars=[1.0, 2.0])
    with pytest.raises(MissingColumnError, match=r"'sauce'.*'text', 'stars', 'length', 'label'"):
        _named(table, columns=["sauce"])
    with pytest.raises(MissingColumnError, match=r"expressions\.mine names the column 'star'"):
        _named(table, expressions={"mine": "star > 1"})


def test_a_text_compared_with_a_number_is_said() -> None:
    with pytest.raises(ParamsError, match=r"expressions\.mine: 'text < 3' cannot be computed.*text holds texts"):
        _named(_table(stars=[1.0, 2.0]), expressions={"mine": "text < 3"})


def test_what_is_not_judged_is_said() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(2, size=100)
    models = {"int8": _class_answers(labels == labels, labels)}
    parts = [Slice("all", labels >= 0), Slice("nowhere", labels > 5), Slice("few", np.arange(100) < 7)]
    report = judge_slices(parts, labels, models, "int8", [], QUICK, seed=0)
    assert [part.name for part in report.slices] == ["all"]
    assert report.not_judged == {"nowhere": 0, "few": 7}
    assert report.sentences() == [
        "no test row is in the slice nowhere",
        "slices of fewer than 50 test rows, not judged: few (7)",
    ]


@pytest.mark.parametrize(
    "section",
    [
        {"false_discovery_rate": 0.0},
        {"false_discovery_rate": 1.0},
        {"min_rows": 1},
        {"length_bands": 1},
        {"length_limits": [5, 5]},
        {"length_limits": [0, 5]},
        {"max_values": 0},
    ],
)
def test_limits_out_of_range_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Slices(**section)  # type: ignore[arg-type]
