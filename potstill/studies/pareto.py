"""The Pareto front of score against time and size, and the cheapest student that passes its gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from potstill.evaluation.gates import Verdict
from potstill.studies.space import Choice


@dataclass(frozen=True)
class Point:
    """One model as it would ship, measured on dev.

    Attributes:
        name: a name for people.
        kind: `teacher`, `layers` (a student of the teacher's layers), `static`, or `tfidf` (with a linear model).
        score: the task's score on dev.
        milliseconds: median for one text.
        megabytes: size of the file in 10^6 bytes.
        numbers: everything that was measured.
        choice: the trial's choice; None for a model of no trial.
        run_arguments: arguments of `potstill run` that make it again; empty for a model that is no student.
        sections: section of params.yaml -> the values that make it again; empty for a model that is no student.
        verdict: the gates, judged on dev; None for a model that is no student.
        folder: the serving folder of a student.
    """

    name: str
    kind: str
    score: float
    milliseconds: float
    megabytes: float
    numbers: dict[str, Any]
    choice: Choice | None = None
    run_arguments: list[str] = field(default_factory=list)
    sections: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    folder: str | None = None


def dominates(point: Point, other: Point) -> bool:
    """Whether a point is at least as good in score, time and size, and better in one of them."""
    values = (point.score, -point.milliseconds, -point.megabytes)
    other_values = (other.score, -other.milliseconds, -other.megabytes)
    return all(a >= b for a, b in zip(values, other_values, strict=True)) and values != other_values


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other dominates, fastest first."""
    undominated = [point for point in points if not any(dominates(other, point) for other in points)]
    return sorted(undominated, key=_cost)


def cheapest(points: Sequence[Point]) -> Point | None:
    """Return the fastest point that passes its gates, of equally fast ones the smallest; None where none passes."""
    passing = [point for point in points if point.verdict is not None and point.verdict.passed]
    return min(passing, key=_cost, default=None)


def better_without_student(points: Sequence[Point]) -> list[Point]:
    """List the models without distillation that dominate the cheapest student that passes its gates."""
    student = cheapest(points)
    others = [point for point in points if point.verdict is None]
    return [point for point in others if student is not None and dominates(point, student)]


def _cost(point: Point) -> tuple[float, float]:
    return point.milliseconds, point.megabytes
