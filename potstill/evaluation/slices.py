"""The candidate against its rivals on parts of the test split, with the false-discovery rate held over all of them.

Benjamini-Hochberg and not a max-statistic bootstrap, for three reasons. A reviewer asks which slices got worse, so the
share of wrong names among those named is what matters, not the chance of one wrong name. The exact McNemar test is
valid on a slice of 50 rows, where a resampled maximum is not. And one procedure serves all scores.

It needs positive regression dependence of the p values (Benjamini & Yekutieli 2001). Slices overlap or are disjoint,
and rivals share the candidate's answers, so the differences are correlated positively or not at all. Their two-sided
tests are close to that condition; the tests of this module simulate the error rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.config.evaluation_params import Evaluate, Slices
from potstill.config.expressions import expression_names
from potstill.errors import MissingColumnError, ParamsError
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.metrics_reading import signed_interval, signed_points
from potstill.evaluation.summary import Answers, Gold
from potstill.kinds.definitions.kind import Kind, Names
from potstill.scores.metrics import Flags
from potstill.scores.significance import adjusted_p_values, bootstrap_p_value, mcnemar_p_value
from potstill.scores.statistics import (
    Comparison,
    Moments,
    Outcome,
    bootstrap,
    comparison,
    score_differences,
    wilson_interval,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# The name of a missing value of a column.
MISSING = "missing"
# The name of all values of a column that have too few rows.
RARE = "other values"


@dataclass(frozen=True)
class Slice:
    """Some rows of the test split.

    Attributes:
        name: such as `label = negative`.
        flags: [rows] whether a row belongs to it.
    """

    name: str
    flags: Flags

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return int(self.flags.sum())


@dataclass(frozen=True)
class SliceComparison:
    """The candidate's score minus a rival's on one slice.

    Attributes:
        outcome: BEATS or LOSES where the adjusted p value is at most the false-discovery rate.
        difference: of the scores.
        low: lower end of the interval of the difference, which is not adjusted for the number of slices.
        high: its upper end.
        p_value: of the exact McNemar test for accuracy, of the paired bootstrap for other scores.
        adjusted_p_value: by Benjamini-Hochberg, over all slices and rivals.
    """

    outcome: Outcome
    difference: float
    low: float
    high: float
    p_value: float
    adjusted_p_value: float


@dataclass(frozen=True)
class SliceScore:
    """The candidate on one slice.

    Attributes:
        name: of the slice.
        rows: in it.
        score: the task's score of the candidate.
        low: lower end of its interval.
        high: upper end.
        rivals: name of a rival -> comparison with it.
    """

    name: str
    rows: int
    score: float
    low: float
    high: float
    rivals: dict[str, SliceComparison]


@dataclass(frozen=True)
class SliceReport:
    """`slices` of metrics.json.

    Attributes:
        score: key of the task's score.
        false_discovery_rate: held over all comparisons.
        comparisons: how many there are.
        slices: that were judged, in the order of params.
        not_judged: name -> rows of the slices with fewer rows than `min_rows`; 0 for one that matches nothing.
        min_rows: the least number of rows.
    """

    score: str
    false_discovery_rate: float
    comparisons: int
    slices: list[SliceScore]
    not_judged: dict[str, int]
    min_rows: int

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """Say where the candidate is worse, and which slices were not judged; without full stops."""
        sentences = [
            f"worse than {rival} on {part.name} ({signed_points(compared.difference)} points on {part.rows:,} rows, "
            f"{signed_interval(compared.low, compared.high)})"
            for part in self.slices
            for rival, compared in part.rivals.items()
            if compared.outcome == "LOSES"
        ]
        empty = [name for name, rows in self.not_judged.items() if not rows]
        small = [f"{name} ({rows})" for name, rows in self.not_judged.items() if rows]
        sentences += [f"no test row is in the slice {name}" for name in empty]
        if small:
            sentences.append(f"slices of fewer than {self.min_rows} test rows, not judged: {', '.join(small)}")
        return sentences


# --- which rows -------------------------------------------------------------------------------------------------------


def find_slices(rows: pa.Table, settings: Slices, kind: Kind, names: Names) -> list[Slice]:
    """Find the slices that params name.

    Args:
        rows: a labelled split of `data/prepared`.
        settings: the section.
        kind: the kind of task.
        names: labels in the order of the model's outputs.

    Raises:
        MissingColumnError: a column is not in the split.
        ParamsError: a column has too many values, an expression cannot be computed, or two slices have one name.
    """
    frame = _frame(rows, kind, names)
    bands = settings.length_limits or settings.length_bands
    slices = [] if bands is None else list(_length_slices(frame["length"].to_numpy(), bands))
    if settings.label:
        slices += _label_slices(rows.column("label").to_pylist(), kind, names)
    for name in settings.columns:
        slices += _column_slices(_column(frame, name, "columns"), settings)
    automatic = {part.name for part in slices}
    for name in settings.expressions:
        if name in automatic:
            raise ParamsError(
                f"evaluate.slices.expressions has the name {name!r}, which a slice by length, label or column has too; "
                "give the expression another name"
            )
    return slices + [_expression_slice(frame, *item) for item in settings.expressions.items()]


def _frame(rows: pa.Table, kind: Kind, names: Names) -> pd.DataFrame:
    """Build the columns that params may name: those of the split, the length, and a label that is one value."""
    frame: pd.DataFrame = rows.drop_columns(["id", "label"]).to_pandas()
    frame["length"] = sum(frame[name].str.len() for name in ("text", "text_pair") if name in frame)
    if kind.form == "class":
        frame["label"] = [str(names[index]) for index in rows.column("label").to_pylist()]
    elif kind.form == "number":
        frame["label"] = rows.column("label").to_pylist()
    return frame


def _column(frame: pd.DataFrame, name: str, key: str) -> pd.Series[Any]:
    if name not in frame:
        raise MissingColumnError(
            f"evaluate.slices.{key} names the column {name!r}, which the test split does not have; it has "
            f"{', '.join(map(repr, frame.columns))}; prepare.keep_columns keeps further columns of the data"
        )
    return frame[name]


def _length_slices(lengths: npt.NDArray[np.int64], bands: int | list[int]) -> Iterator[Slice]:
    """Divide the rows by length at given lengths, or at the quantiles."""
    if isinstance(bands, int):
        shares = np.arange(1, bands) / bands
        limits = np.unique(np.quantile(lengths, shares, method="higher")).astype(np.int64).tolist()
        limits = [limit for limit in limits if limit > lengths.min()]
    else:
        limits = bands
    band = np.searchsorted(limits, lengths, side="right")
    for index in range(len(limits) + 1):
        if index == 0:
            name = f"length below {limits[0]}" if limits else "length any"
        elif index == len(limits):
            name = f"length from {limits[-1]}"
        else:
            name = f"length {limits[index - 1]} to {limits[index] - 1}"
        yield Slice(name, band == index)


def _label_slices(values: Sequence[Any], kind: Kind, names: Names) -> list[Slice]:
    """Divide the rows by gold label. A row with several labels or types of entities is in several slices."""
    rows = [kind.stored_classes(value, names) for value in values]
    classes = dict.fromkeys([*map(str, kind.class_names(names)), *chain.from_iterable(rows)])
    return [Slice(f"label = {name}", np.array([name in row for row in rows], dtype=bool)) for name in classes]


def _column_slices(column: pd.Series[Any], settings: Slices) -> list[Slice]:
    """Make a slice for each value of a column with enough rows, and one for all others."""
    values = [MISSING if value != value or value is None else _shown(value) for value in column]
    texts, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    judged = [at for at in np.argsort(-counts, kind="stable").tolist() if counts[at] >= settings.min_rows]
    if len(judged) > settings.max_values:
        raise ParamsError(
            f"evaluate.slices.columns names {str(column.name)!r}, of which {len(judged)} values have at least "
            f"{settings.min_rows} test rows, above max_values = {settings.max_values}; divide it by "
            "evaluate.slices.expressions, or raise max_values"
        )
    slices = [Slice(f"{column.name} = {texts[at]}", index == at) for at in judged]
    rare = ~np.isin(index, judged)
    return [*slices, Slice(f"{column.name}: {RARE}", rare)] if rare.any() else slices


def _shown(value: Any) -> str:
    """Write a value of a column; whole numbers are floats where one of them is missing."""
    if not isinstance(value, float):
        return str(value)
    return str(int(value)) if value.is_integer() else f"{value:g}"


def _expression_slice(frame: pd.DataFrame, name: str, expression: str) -> Slice:
    """Find the rows for which an expression is true.

    A comparison with a missing value is false, save for `!=` and `not in`.
    """
    import pandas as pd

    for column in expression_names(expression):
        _column(frame, column, f"expressions.{name}")
    try:
        flags: Any = frame.eval(expression, engine="python", parser="pandas", local_dict={}, global_dict={})
    except (TypeError, ValueError, NotImplementedError, KeyError, AttributeError) as error:
        kinds = {column: "numbers" if pd.api.types.is_numeric_dtype(frame[column]) else "texts" for column in frame}
        used = ", ".join(f"{column} holds {kinds[column]}" for column in expression_names(expression))
        raise ParamsError(
            f"evaluate.slices.expressions.{name}: {expression!r} cannot be computed ({error}); {used}"
        ) from None
    return Slice(name, np.asarray(flags, dtype=bool))


# --- how good ---------------------------------------------------------------------------------------------------------


def judge_slices(
    slices: Sequence[Slice],
    labels: Gold,
    models: Mapping[str, Answers],
    candidate: str,
    rivals: Sequence[str],
    settings: Evaluate,
    *,
    seed: int,
) -> SliceReport:
    """Compare the candidate with each rival on each slice that has enough rows.

    Args:
        slices: parts of the test split.
        labels: [rows, ...] gold labels in the task's form.
        models: name -> answers; holds the candidate and the rivals.
        candidate: name of the model that ships.
        rivals: names of the others, such as teacher and champion.
        settings: level of the intervals, resamples, and `slices`.
        seed: of the bootstrap.
    """
    judged = [part for part in slices if part.rows >= settings.slices.min_rows]
    graded = {name: _graded(labels, models[name]) for name in (candidate, *rivals)}
    key = models[candidate].kind.scoring.key
    tests = [
        (_compare(graded[candidate], graded[rival], part.flags, key, settings, seed), part.name, rival)
        for part in judged
        for rival in rivals
    ]
    rate = settings.slices.false_discovery_rate
    adjusted = adjusted_p_values([p_value for (_, p_value), _, _ in tests])
    comparisons: dict[str, dict[str, SliceComparison]] = {part.name: {} for part in judged}
    for ((plain, p_value), name, rival), q in zip(tests, adjusted, strict=True):
        outcome = _outcome(plain.difference) if q <= rate else "NO DIFFERENCE"
        comparisons[name][rival] = SliceComparison(outcome, plain.difference, plain.low, plain.high, p_value, q)
    scores = [
        SliceScore(part.name, part.rows, *_score(graded[candidate], part.flags, key, settings), comparisons[part.name])
        for part in judged
    ]
    return SliceReport(
        key,
        rate,
        len(tests),
        scores,
        {part.name: part.rows for part in slices if part.rows < settings.slices.min_rows},
        settings.slices.min_rows,
    )


def _outcome(difference: float) -> Outcome:
    if difference == 0:
        return "NO DIFFERENCE"
    return "BEATS" if difference > 0 else "LOSES"


def _graded(labels: Gold, answers: Answers) -> Flags | Moments:
    """Return [rows] whether a class is right; of other tasks the sums that their scores follow from."""
    if answers.kind.form == "class" and not isinstance(labels, GoldTags | GoldAnswers):
        right: Flags = answers.predictions == labels
        return right
    return answers.moments(labels)


def _score(graded: Flags | Moments, flags: Flags, key: str, settings: Evaluate) -> tuple[float, float, float]:
    """Compute the score on a slice with its interval: Wilson's for a share of rows, else by the bootstrap."""
    if not isinstance(graded, Moments):
        right = int(graded[flags].sum())
        rows = int(flags.sum())
        return right / rows, *wilson_interval(right, rows, settings.confidence)
    part = Moments(graded.columns[flags], {key: graded.scores[key]})
    intervals = part.intervals(replicates=settings.bootstrap, confidence=settings.confidence, seed=0)
    return part.values[key], *intervals[key]


def _compare(
    student: Flags | Moments, rival: Flags | Moments, flags: Flags, key: str, settings: Evaluate, seed: int
) -> tuple[Comparison, float]:
    """Compute the paired difference of two models on a slice, and the p value of no difference."""
    if isinstance(student, Moments) and isinstance(rival, Moments):
        first = student.of(flags)
        second = rival.of(flags)
        draws = score_differences([first], [second], key, replicates=settings.bootstrap, seed=seed)
        plain = comparison(first.values[key] - second.values[key], draws, settings.confidence)
        return plain, bootstrap_p_value(draws)
    assert not isinstance(student, Moments)
    assert not isinstance(rival, Moments)
    gains = student[flags].astype(np.int64) - rival[flags]
    plain = bootstrap(gains[None], replicates=settings.bootstrap, confidence=settings.confidence, seed=seed)
    return plain, mcnemar_p_value(int((gains > 0).sum()), int((gains < 0).sum()))
