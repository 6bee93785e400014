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
        verdicts=[_verdict(name, metrics) for name in metrics["proof"]["verdicts"]],
        proof=_proof_rows(metrics["proof"]),
        headers=table.headers(metrics),
        rows=table.rows(metrics),
        note=table.note(metrics),
        figures={name: Markup(svg) for name, svg in figures.items()},
        examples=examples,
        splits=splits,
        lineage=lineage,
    )


def _verdict(control: str, metrics: Mapping[str, Any]) -> str:
    """The comparison with a control in one sentence."""
    proof = metrics["proof"]
    verdict, seeds = proof["verdicts"][control], len(proof["seeds"])
    words = {"BEATS": "beats", "LOSES": "loses to", "NO DIFFERENCE": "cannot be told apart from"}[verdict["outcome"]]
    points = [f"{100 * verdict[part]:+.1f}" for part in ("difference", "low", "high")]
    over = (
        f"over the rows and {seeds} training seeds"
        if seeds > 1
        else "over the rows; of one training seed, so the noise of training is not in it"
    )
    return (
        f"The student {words} the {control} control: {points[0]} points of accuracy on the same test texts, "
        f"{100 * metrics['confidence']:g}% interval {points[1]} to {points[2]} (paired bootstrap {over})."
    )


def _proof_rows(proof: Mapping[str, Any]) -> list[list[str]]:
    """Each model of the proof: a row a seed and, of several, one of their means."""
    rows = []
    for name, numbers in proof["models"].items():
        columns = [numbers[key] for key in ("accuracy", "agreement", "kl", "ece")]
        found = dict(zip(map(str, proof["seeds"]), zip(*columns, strict=True), strict=True))
        if len(found) > 1:
            found["mean"] = tuple(float(np.mean(column)) for column in columns)
        rows += [[name, seed, *_cells(*values)] for seed, values in found.items()]
    return rows


def _cells(accuracy: float, agreement: float, kl: float, ece: float) -> list[str]:
    return [f"{100 * accuracy:.1f}", f"{100 * agreement:.1f}", f"{kl:.4f}", f"{ece:.3f}"]
