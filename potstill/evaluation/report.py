"""One self-contained HTML page about a student: no script, no font, no image from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.evaluation import table
from potstill.evaluation.metrics import Ints
from potstill.evaluation.naming import MODELS, candidate_of
from potstill.evaluation.page import TEMPLATE
from potstill.evaluation.summary import Answers


@dataclass(frozen=True)
class Disagreement:
    """A test text on which teacher and student predict different classes."""

    text: str
    gold: str
    teacher: str
    teacher_probability: float
    student: str
    student_probability: float


def disagreements(
    texts: Sequence[str], labels: Ints, teacher: Answers, student: Answers, names: Sequence[str], most: int
) -> list[Disagreement]:
    """The texts on which the two differ, those first where both are surest.

    Args:
        texts: [rows] as they were before tokenization.
        labels: [rows] gold classes.
        teacher: the teacher's answers to them.
        student: the student's.
        names: class names in index order.
        most: how many to return.
    """
    ours, theirs = student.probabilities.max(axis=1), teacher.probabilities.max(axis=1)
    differ = np.flatnonzero(student.predictions != teacher.predictions)
    order = differ[np.argsort(-np.minimum(ours, theirs)[differ], kind="stable")][:most]
    return [
        Disagreement(
            texts[row], names[labels[row]],
            names[teacher.predictions[row]], float(theirs[row]),
            names[student.predictions[row]], float(ours[row]),
        )
        for row in order
    ]  # fmt: skip


def render_report(
    *,
    project: str,
    metrics: Mapping[str, Any],
    figures: Mapping[str, str],
    examples: Sequence[Disagreement],
    splits: Mapping[str, Mapping[str, int]],
    lineage: Mapping[str, str],
) -> str:
    """The page.

    Args:
        project: its name, for the title.
        metrics: the content of reports/metrics.json.
        figures: name -> SVG text of `potstill.evaluation.plots`: `size`, `latency`, `reliability`, `confusion`.
        examples: texts on which teacher and student disagree; their text is escaped.
        splits: split -> `rows`, `tokens`, `truncated`.
        lineage: path of an input -> its sha256.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    candidate = candidate_of(metrics) or ""
    comparison = metrics["comparison"]
    return environment.from_string(TEMPLATE).render(
        project=project,
        metrics=metrics,
        candidate=MODELS[candidate],
        model=metrics["models"][candidate],
        comparison=comparison,
        verdict=_verdict(MODELS[candidate], comparison["control"], metrics["confidence"]),
        headers=table.headers(metrics),
        rows=table.rows(metrics),
        note=table.note(metrics),
        figures={name: Markup(svg) for name, svg in figures.items()},
        examples=examples,
        splits=splits,
        lineage=lineage,
    )


def _verdict(candidate: str, control: Mapping[str, Any], confidence: float) -> str:
    """The comparison with the control in one sentence."""
    words = {"BEATS": "beats", "LOSES": "loses to", "NO DIFFERENCE": "cannot be told apart from"}[control["outcome"]]
    points = [f"{100 * control[part]:+.1f}" for part in ("difference", "low", "high")]
    return (
        f"{candidate} {words} the no-distillation control: {points[0]} points of accuracy on the same test texts, "
        f"{100 * confidence:g}% interval {points[1]} to {points[2]} (paired bootstrap)."
    )
