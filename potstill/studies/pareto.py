"""The curve of the score against what it costs: which students nothing beats, and the cheapest that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from potstill.evaluation.gates import Verdict
from potstill.studies.space import Choice


@dataclass(frozen=True)
class Point:
    """One model as it would ship, on dev.

    Attributes:
        name: for people.
        kind: `teacher`, `layers` (a student of the teacher's layers) or `static`.
        score: the task's, on dev.
        milliseconds: median for one text.
        megabytes: of the file, in 10^6 bytes.
        choice: of a study; None for what is no trial's.
        made_by: arguments of `potstill run` that make it again; none for the teacher.
        sections: section of params.yaml -> its values, which make it again; none for the teacher.
        verdict: the gates, judged on dev; None for the teacher.
        numbers: everything that was measured.
        folder: the serving folder; None for the teacher.
    """

    name: str
    kind: str
    score: float
    milliseconds: float
    megabytes: float
    choice: Choice | None
    made_by: list[str]
    sections: dict[str, Any]
    verdict: Verdict | None
    numbers: dict[str, Any]
    folder: str | None


def dominates(one: Point, other: Point) -> bool:
    """Whether a point is as good in all of score, time and size, and better in one."""
    ours = (one.score, -one.milliseconds, -one.megabytes)
    theirs = (other.score, -other.milliseconds, -other.megabytes)
    return all(a >= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other dominates, fastest first."""
    kept = [one for one in points if not any(dominates(other, one) for other in points)]
    return sorted(kept, key=_cost)


def cheapest(points: Sequence[Point]) -> Point | None:
    """The fastest point that passes its gates, the smaller of two equally fast ones; None where none passes."""
    passing = [one for one in points if one.verdict is not None and one.verdict.passed]
    return min(passing, key=_cost, default=None)


def _cost(point: Point) -> tuple[float, float]:
    return point.milliseconds, point.megabytes
