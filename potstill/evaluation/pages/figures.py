"""The figures of a report: SVG for curves, values of HTML tables for figures with labels.

Figures with labels are tables, because a browser has fonts for every script and wraps long labels. There is one SVG for
each model, so that the page arranges them in as many columns as the screen has room for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from potstill.evaluation.naming import TITLES
from potstill.evaluation.pages.plots import colour_of
from potstill.scores.metrics import Counts, Doubles

# Up to this many classes a cell shows its number; with more it shows the number when pointed at.
MAX_NUMBERED = 12


@dataclass(frozen=True)
class Cell:
    """A number of texts, and a shade for their share of the gold class."""

    count: int
    shade: str


@dataclass(frozen=True)
class Confusion:
    """One model's confusion matrix: gold classes down, predicted classes across.

    Attributes:
        model: its name in metrics.json.
        title: the model's title.
        rows: [classes] label and cells of each gold class.
        numbers: whether cells show their number.
    """

    model: str
    title: str
    rows: list[tuple[str, list[Cell]]]
    numbers: bool


@dataclass(frozen=True)
class Bar:
    """One model's score on a label, from 0 to 1."""

    title: str
    colour: str
    value: float


@dataclass(frozen=True)
class Figures:
    """The figures of an evaluation. The task decides which of them exist.

    Attributes:
        size: SVG of the score over megabytes.
        latency: SVG of the score over milliseconds. It depends on the machine, so it is no file of `data/evaluation`.
        reliability: model -> SVG of accuracy over confidence.
        answers: model -> SVG of answers over gold numbers.
        maps: model -> SVG of the confusion matrix of many classes.
        confusions: confusion matrices of few classes.
        labels: label -> F1 of each model.
        coverage: SVG of the candidate's accuracy over coverage, where params ask for a threshold.
        learning: training -> SVG of its dev score and loss.
    """

    size: str
    latency: str = ""
    reliability: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, str] = field(default_factory=dict)
    confusions: Sequence[Confusion] = ()
    labels: Sequence[tuple[str, list[Bar]]] = ()
    coverage: str = ""
    learning: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> dict[str, str]:
        """Return the SVG files of `data/evaluation/plots`, by name."""
        kinds = {
            "reliability": self.reliability,
            "answers": self.answers,
            "confusion": self.maps,
            "learning": self.learning,
        }
        per_model = {f"{kind}-{model}": svg for kind, models in kinds.items() for model, svg in models.items()}
        return {"size": self.size, **per_model, **({"coverage": self.coverage} if self.coverage else {})}


def confusions(models: Mapping[str, Counts], labels: Sequence[str]) -> list[Confusion]:
    """Make a matrix for each model.

    Args:
        models: name -> [classes, classes] texts by gold and by predicted class.
        labels: [classes] names.
    """
    return [
        Confusion(name, TITLES.get(name, name), _rows(counts, labels, colour_of(name)), len(labels) <= MAX_NUMBERED)
        for name, counts in models.items()
    ]


def _rows(counts: Counts, labels: Sequence[str], colour: str) -> list[tuple[str, list[Cell]]]:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        (
            label,
            [Cell(int(count), _shade(colour, share)) for count, share in zip(counts[row], shares[row], strict=True)],
        )
        for row, label in enumerate(labels)
    ]


def _shade(colour: str, share: float) -> str:
    """Add an opacity to the colour, and no lightness, so that numbers are legible on a light and on a dark page."""
    return f"{colour}{round(255 * (0.05 + 0.5 * share)):02x}"


def label_bars(models: Mapping[str, Doubles], labels: Sequence[str]) -> list[tuple[str, list[Bar]]]:
    """Make a bar of each model for each label.

    Args:
        models: name -> [labels] scores from 0 to 1.
        labels: names.
    """
    return [
        (label, [Bar(TITLES.get(name, name), colour_of(name), float(values[row])) for name, values in models.items()])
        for row, label in enumerate(labels)
    ]
