"""Comparison of two versions by their evidence: a candidate against the champion, row by row where possible.

Each version keeps its answers to the test rows. Two versions that were tested on the same rows are compared on these
with paired intervals. Without common rows, or for answers that are places in a text, only the numbers of their
metrics.json are compared, and the comparison says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from potstill.artifacts import read_json
from potstill.evaluation.metrics_reading import finite, mapping, signed_interval, signed_points, slice_losses
from potstill.evaluation.naming import candidate_of
from potstill.kinds.definitions.kind import Kind
from potstill.kinds.definitions.task_kinds import CARD_NAMES, KINDS
from potstill.scores.statistics import Comparison, paired_bootstrap

# Fewer common rows, or rows of a class, are not compared.
MIN_ROWS = 30
MIN_CLASS_ROWS = 20
_REPLICATES = 10_000
# A cost is called worse from this ratio on: two measurements of the same model differ by less.
_COST_RATIO = 1.1
# Key in metrics.json -> name, unit and decimals of what has no interval; less is better.
_COSTS = {
    "ece": ("calibration error", "", 3),
    "megabytes": ("model file", " MB", 1),
    "p50_ms": ("p50 latency", " ms", 1),
    "p99_ms": ("p99 latency", " ms", 1),
}


@dataclass(frozen=True)
class Difference:
    """One number of a candidate next to the champion's.

    Attributes:
        measure: what it is, such as `accuracy of the label negative`.
        candidate: the candidate's number.
        champion: the champion's.
        difference: the candidate's minus the champion's.
        low: lower end of the paired interval of the difference; None without one.
        high: its upper end.
        rows: rows that both answered; None for a number that was only copied from metrics.json.
        is_worse: whether the candidate is worse beyond chance or, for a cost, by more than a tenth.
        sentence: all of it in words.
    """

    measure: str
    candidate: float
    champion: float
    difference: float
    low: float | None
    high: float | None
    rows: int | None
    is_worse: bool
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """The difference as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class VersionComparison:
    """A candidate against the champion.

    Attributes:
        basis: what was compared, in a sentence.
        differences: the score first, then its parts, then costs.
        worse: a sentence for each thing that got worse.
    """

    basis: str
    differences: tuple[Difference, ...]
    worse: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values."""
        differences = [item.to_json() for item in self.differences]
        return {"basis": self.basis, "differences": differences, "worse": list(self.worse)}


@dataclass(frozen=True)
class _Answers:
    """The answers of a version to the rows that both were tested on."""

    gold: Any
    logits: Any


def compare_versions(
    candidate: Path, champion: Path, *, rival: str = "the champion", is_judged_rival: bool = False
) -> VersionComparison:
    """Compare two versions by their evidence, as `version_artifacts.pack_evidence` packed it.

    Args:
        candidate: evidence of the version in question.
        champion: evidence of the version that it is compared with.
        rival: what sentences call that version.
        is_judged_rival: whether it is the champion that the candidate's gate scored again on the candidate's test rows.
    """
    metrics = read_json(candidate / "metrics.json")
    verdict = read_json(candidate / "gate.json") if is_judged_rival and (candidate / "gate.json").exists() else {}
    champion_metrics = read_json(champion / "metrics.json")
    kind = _kind(candidate)
    reason = _mismatch(candidate, champion, kind)
    differences: list[Difference] = []
    if reason is None:
        answers, champion_answers, rows = _common_rows(candidate, champion, metrics, champion_metrics)
        if rows >= MIN_ROWS:
            basis = f"both were tested on these {rows:,} rows, so differences have paired 95% intervals"
            differences = _compare_rows(kind, _labels(candidate), answers, champion_answers)
        else:
            reason = f"the two were tested on different rows ({rows} in common)"
    judged = None if reason is None else _judged(kind, metrics, verdict)
    if judged is not None:
        basis = f"{reason}, but the gate has asked {rival} all test rows of this version"
        differences = [judged]
    elif reason is not None:
        basis = f"{reason}, so differences are those of two separate evaluations, without an interval"
        differences = _compare_scores(kind, metrics, champion_metrics)
    differences += _compare_costs(metrics, champion_metrics)
    slices = [
        f"{part.get('name')}: {_points(loss['difference'], loss['low'], loss['high'])} on {part.get('rows')} rows"
        for part, name, loss in slice_losses(mapping(verdict.get("champion")).get("slices"))
        if name == "champion"
    ]
    worse = [item.sentence.replace("the champion", rival) for item in differences if item.is_worse]
    return VersionComparison(basis, tuple(differences), (*worse, *slices))


def _kind(evidence: Path) -> Kind:
    return KINDS[CARD_NAMES[read_json(evidence / "model.json")["task"]]]


def _labels(evidence: Path) -> list[str]:
    return [str(label) for label in read_json(evidence / "model.json")["labels"]]


def _mismatch(candidate: Path, champion: Path, kind: Kind) -> str | None:
    """Say why the answers of two versions cannot be compared row by row; None if they can."""
    if kind.name != _kind(champion).name:
        return "the two are for different tasks"
    if sorted(_labels(candidate)) != sorted(_labels(champion)):
        return "the two have different labels"
    if kind.marks_spans:
        return "answers are places in a text"
    if not all((folder / "predictions.parquet").exists() for folder in (candidate, champion)):
        return "the answers of one of them are not with it"
    return None


def _common_rows(
    candidate: Path, champion: Path, metrics: Mapping[str, Any], champion_metrics: Mapping[str, Any]
) -> tuple[_Answers, _Answers, int]:
    """Read both versions' answers to the rows that both were tested on, in the candidate's order of labels."""
    ids, gold, logits = _read_answers(candidate, metrics)
    champion_ids, _, champion_logits = _read_answers(champion, champion_metrics)
    labels = _labels(candidate)
    order = [_labels(champion).index(label) for label in labels]
    champion_row_of = {name: row for row, name in enumerate(champion_ids)}
    rows = np.array([row for row, name in enumerate(ids) if name in champion_row_of], dtype=np.int64)
    champion_rows = np.array([champion_row_of[ids[row]] for row in rows], dtype=np.int64)
    # The gold labels are the candidate's: where the two differ, the data was corrected meanwhile.
    return (
        _Answers(gold[rows], logits[rows]),
        _Answers(gold[rows], champion_logits[champion_rows][:, order]),
        len(rows),
    )


def _read_answers(evidence: Path, metrics: Mapping[str, Any]) -> tuple[list[str], Any, Any]:
    import pyarrow.parquet as pq

    name = candidate_of(metrics) or "int8"
    # Not `read_table`, which imports pandas.
    table = pq.ParquetFile(evidence / "predictions.parquet").read(columns=["id", "label", name])
    return table["id"].to_pylist(), np.array(table["label"].to_pylist()), np.array(table[name].to_pylist())


def _compare_rows(kind: Kind, labels: list[str], candidate: _Answers, champion: _Answers) -> list[Difference]:
    """Compare the score and, for one class a text, the share of right answers of each class."""
    options = {"replicates": _REPLICATES, "confidence": 0.95, "seed": 0}
    score, _ = kind.compare([(candidate.gold, candidate.logits)], [(champion.gold, champion.logits)], **options)
    values = (kind.score(candidate.gold, candidate.logits), kind.score(champion.gold, champion.logits))
    differences = [_with_interval(kind.scoring.words, values, score, len(candidate.gold))]
    if kind.form != "class":
        return differences
    classes = [index for index in range(len(labels)) if (candidate.gold == index).sum() >= MIN_CLASS_ROWS]
    for index in classes:
        chosen = candidate.gold == index
        predictions = [answers.logits[chosen].argmax(axis=1) for answers in (candidate, champion)]
        # Bonferroni: the chance that any class is called worse by noise stays at 5%.
        level = 1 - 0.05 / len(classes)
        part = paired_bootstrap(candidate.gold[chosen], *predictions, replicates=_REPLICATES, confidence=level, seed=0)
        shares = (float((predictions[0] == index).mean()), float((predictions[1] == index).mean()))
        differences.append(_with_interval(f"recall of {labels[index]}", shares, part, int(chosen.sum())))
    return differences


def _with_interval(measure: str, values: tuple[float, float], comparison: Comparison, rows: int) -> Difference:
    points = _points(comparison.difference, comparison.low, comparison.high)
    sentence = f"{measure} {100 * values[0]:.1f}%, the champion's {100 * values[1]:.1f}%: {points} on {rows:,} rows"
    return Difference(
        measure,
        *values,
        comparison.difference,
        comparison.low,
        comparison.high,
        rows,
        comparison.outcome == "LOSES",
        sentence,
    )


def _judged(kind: Kind, metrics: Mapping[str, Any], verdict: Mapping[str, Any]) -> Difference | None:
    """Read the comparison with the champion that the gate made; None if it made none with an interval."""
    champion = verdict.get("champion") or {}
    judged = champion.get("comparison")
    if not isinstance(judged, Mapping) or kind.scoring.key not in champion:
        return None
    comparison = Comparison(judged["outcome"], judged["difference"], judged["low"], judged["high"])
    score = float(metrics["models"][candidate_of(metrics)][kind.scoring.key])
    values = (score, float(champion[kind.scoring.key]))
    return _with_interval(kind.scoring.words, values, comparison, int(judged["rows"]))


def _compare_scores(kind: Kind, metrics: Mapping[str, Any], champion: Mapping[str, Any]) -> list[Difference]:
    key = kind.scoring.key
    values = _shipped_values(metrics, champion, key)
    if values is None:
        return []
    difference = values[0] - values[1]
    sentence = (
        f"{kind.scoring.words} {100 * values[0]:.1f}%, the champion's {100 * values[1]:.1f}%: "
        f"{signed_points(difference)} points, each on its own test rows"
    )
    return [Difference(kind.scoring.words, *values, difference, None, None, None, False, sentence)]


def _compare_costs(metrics: Mapping[str, Any], champion: Mapping[str, Any]) -> list[Difference]:
    differences = []
    for key, (name, unit, digits) in _COSTS.items():
        values = _shipped_values(metrics, champion, key)
        if values is not None:
            sentence = f"{name} {values[0]:.{digits}f}{unit}, the champion's {values[1]:.{digits}f}{unit}"
            is_worse = values[0] > values[1] * _COST_RATIO and round(values[0] - values[1], digits) > 0
            differences.append(Difference(name, *values, values[0] - values[1], None, None, None, is_worse, sentence))
    return differences


def _shipped_values(metrics: Mapping[str, Any], champion: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """Return a number of both shipped models; None if one of them does not have it."""
    value, champion_value = (
        finite(side.get("models", {}).get(candidate_of(side), {}).get(key)) for side in (metrics, champion)
    )
    return None if value is None or champion_value is None else (value, champion_value)


def _points(difference: float, low: float, high: float) -> str:
    return f"{signed_points(difference)} points ({signed_interval(low, high)})"
