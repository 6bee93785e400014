"""The figures that the kind of task has, by the names in `Kind.figures`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from potstill.config.evaluation_params import Evaluate
from potstill.evaluation.pages.figures import confusions, label_bars
from potstill.evaluation.pages.plots import (
    MAX_NAMED_CLASSES,
    answers_against_gold,
    confusion_maps,
    reliability_diagrams,
)
from potstill.evaluation.summary import Answers, Gold
from potstill.kinds.definitions.kind import Kind, Names
from potstill.scores.metrics import Labels, confusion_matrix

Models = Mapping[str, Answers]


def task_figures(kind: Kind, gold: Gold, models: Models, labels: Names, settings: Evaluate) -> dict[str, Any]:
    """Draw the figures of a kind of task, as parts of `Figures`."""
    parts: dict[str, Any] = {}
    for name in kind.figures:
        parts |= _FIGURES[name](kind, gold, models, labels, settings)
    return parts


def _reliability(kind: Kind, gold: Gold, models: Models, labels: Names, settings: Evaluate) -> dict[str, Any]:
    reliabilities = {name: answers.reliability(gold, settings.calibration_bins) for name, answers in models.items()}
    # A label that is predicted on its own has two classes, yes and no.
    classes = 2 if kind.form == "labels" else len(labels)
    return {"reliability": reliability_diagrams(reliabilities, classes)}


def _confusions(kind: Kind, gold: Labels, models: Models, labels: Names, settings: Evaluate) -> dict[str, Any]:
    names = [str(label) for label in labels]
    counts = {name: confusion_matrix(gold, answers.predictions, len(names)) for name, answers in models.items()}
    if len(names) > MAX_NAMED_CLASSES:
        return {"maps": confusion_maps(counts)}
    return {"confusions": confusions(counts, names)}


def _label_bars(kind: Kind, gold: Gold, models: Models, labels: Names, settings: Evaluate) -> dict[str, Any]:
    scores = {name: kind.class_f1(answers.view(gold), answers.logits) for name, answers in models.items()}
    return {"labels": label_bars(scores, [str(name) for name in kind.class_names(labels)])}


def _numbers(kind: Kind, gold: Labels, models: Models, labels: Names, settings: Evaluate) -> dict[str, Any]:
    return {"answers": answers_against_gold({name: answers.numbers for name, answers in models.items()}, gold)}


_FIGURES: dict[str, Callable[[Kind, Any, Models, Names, Evaluate], dict[str, Any]]] = {
    "reliability": _reliability,
    "confusions": _confusions,
    "labels": _label_bars,
    "answers": _numbers,
}
