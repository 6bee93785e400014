"""The figures of a report: SVG where they are curves, values for tables where they hold labels.

A table of the page and not SVG, because a browser has fonts for every script that labels are written in, and wraps what
does not fit. One SVG for each model, so that they stand in as many columns as a screen has room for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from potstill.evaluation.naming import TITLES
from potstill.evaluation.pages.plots import COLOURS
from potstill.scores.metrics import Counts, Doubles

# Up to so many classes a cell shows its number; with more it is a shade that names its number when pointed at.
MOST_NUMBERS = 12


@dataclass(frozen=True)
class Cell:
    """A number of texts, and the shade that their share of the gold class gives."""

    count: int
    shade: str


@dataclass(frozen=True)
class Confusion:
    """One model's confusion matrix: gold classes down, predicted classes across.

    Attributes:
        title: the model's.
        rows: [classes] label and cells of each gold class.
        numbers: whether cells show their number.
    """

    title: str
    rows: list[tuple[str, list[Cell]]]
    numbers: bool


@dataclass(frozen=True)
class Bar:
    """One model's score of a label, from 0 to 1."""

    title: str
    colour: str
    value: float


@dataclass(frozen=True)
class Figures:
    """What the evaluation shows. Which parts there are depends on the task.

    Attributes:
        size: SVG of the score over megabytes.
        latency: SVG of the score over milliseconds; it depends on the machine, so it is no file of `data/evaluation`.
        reliability: model -> SVG of accuracy over confidence.
        answers: model -> SVG of answers over gold numbers.
        maps: model -> SVG of the confusion matrix of many classes.
        confusions: confusion matrices of few classes.
        labels: label -> F1 of each model.
    """

    size: str
    latency: str = ""
    reliability: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, str] = field(default_factory=dict)
    confusions: Sequence[Confusion] = ()
    labels: Sequence[tuple[str, list[Bar]]] = ()

    def files(self) -> dict[str, str]:
        """The SVG files of `data/evaluation/plots`, by name."""
        several = {"reliability": self.reliability, "answers": self.answers, "confusion": self.maps}
        each = {f"{kind}-{model}": svg for kind, held in several.items() for model, svg in held.items()}
        return {"size": self.size, **each}


def confusions(models: Mapping[str, Counts], labels: Sequence[str]) -> list[Confusion]:
    """Make a matrix for each model.

    Args:
        models: name -> [classes, classes] texts by gold and by predicted class.
        labels: [classes] names.
    """
    return [
        Confusion(TITLES[name], _rows(counts, labels, COLOURS[name]), len(labels) <= MOST_NUMBERS)
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
    """The colour with an opacity: not lighter or darker, so that shades hold on a light and on a dark page."""
    return f"{colour}{round(255 * (0.06 + 0.8 * share)):02x}"


def label_bars(models: Mapping[str, Doubles], labels: Sequence[str]) -> list[tuple[str, list[Bar]]]:
    """Make a bar of each model for each label.

    Args:
        models: name -> [labels] scores from 0 to 1.
        labels: names.
    """
    return [
        (label, [Bar(TITLES[name], COLOURS[name], float(values[row])) for name, values in models.items()])
        for row, label in enumerate(labels)
    ]
