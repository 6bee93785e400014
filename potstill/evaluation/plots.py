"""Figures as SVG text: same numbers, same bytes; ink that follows the page's colour, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from potstill.evaluation.metrics import Counts, Doubles, Floats, Reliability
from potstill.evaluation.naming import BASELINE, MODELS, TITLES
from potstill.evaluation.scoring import SCORINGS, Scoring

COLOURS = {
    "teacher": "#3b82c4",
    "student": "#17a286",
    "int8": "#dd7a0c",
    "control": "#8a8f98",
    "initialised": "#9a6fb0",
    BASELINE: "#c2556b",
}
# Of the models of a search.
KINDS = {"teacher": COLOURS["teacher"], "layers": COLOURS["int8"], "static": COLOURS["student"]}
# Stands for the colour of the text around the figure, which matplotlib has no name for; replaced in the SVG.
INK = "#010203"
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
# Beyond these, cell numbers and class names would be unreadable, and vector cells too many.
MOST_NUMBERS, MOST_NAMES = 12, 30


def reliability_diagram(models: Mapping[str, Reliability], classes: int) -> str:
    """Accuracy against confidence, a panel each model; on the diagonal confidence is what it claims to be."""
    with _figure(len(models), 2.4, 2.5, "reliability") as (figure, svg):
        panels = _panels(figure, 1, len(models))
        for axes, (name, bins) in zip(panels, models.items(), strict=True):
            edges = np.linspace(0, 1, len(bins.rows) + 1)
            filled = bins.rows > 0
            axes.bar(
                edges[:-1][filled], bins.accuracy[filled], width=1 / len(bins.rows), align="edge",
                color=COLOURS[name], alpha=0.75, linewidth=0.5, edgecolor=INK,
            )  # fmt: skip
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            # The most probable of n classes has at least 1/n.
            axes.set(xlim=(1 / classes, 1), ylim=(0, 1), xlabel="confidence", title=MODELS[name])
            axes.text(0.06, 0.93, f"ECE {bins.ece:.3f}", transform=axes.transAxes, va="top")
        panels[0].set_ylabel("accuracy")
    return svg()


def confusion_matrices(models: Mapping[str, Counts], labels: Sequence[str]) -> str:
    """Gold classes (down) against predicted ones (across), a panel each model; shade is the share of the gold class."""
    few = len(labels) <= 4
    rows, columns = (1, len(models)) if few else (-(-len(models) // 2), 2)
    side = 2.4 if few else 4.8
    with _figure(columns, side, rows * side, "confusion") as (figure, svg):
        panels = _panels(figure, rows, columns)
        for axes, (name, counts) in zip(panels, models.items(), strict=False):
            _confusion(axes, counts, labels, COLOURS[name], small=few)
            axes.set_title(MODELS[name])
        for axes in panels[len(models) :]:
            axes.set_visible(False)
    return svg()


def accuracy_against(
    models: Mapping[str, Mapping[str, Any]], key: str, words: str, scoring: Scoring = SCORINGS["single_label"]
) -> str:
    """Accuracy, or the score of another task, with its interval over a cost on a logarithmic axis.

    Args:
        models: name -> its entry of reports/metrics.json; one that lacks the cost is left out.
        key: the cost, such as `megabytes`.
        words: title of the axis.
        scoring: of the task.
    """
    shown = {name: model for name, model in models.items() if model.get(key)}
    with _figure(1, 4.6, 2.9, f"accuracy-{key}") as (figure, svg):
        axes = _panels(figure, 1, 1)[0]
        for place, (name, model) in enumerate(shown.items()):
            # Two points aside from each other: models of one architecture cost the same.
            aside = ScaledTranslation((2 * place - len(shown) + 1) / 72, 0, figure.dpi_scale_trans)
            score, low, high = (100 * model[part] for part in _with_bounds(scoring.key))
            axes.errorbar(
                model[key], score, yerr=[[score - low], [high - score]],
                fmt="o", markersize=6, capsize=3, linewidth=1.4, color=COLOURS[name], label=TITLES[name],
                transform=axes.transData + aside,
            )  # fmt: skip
        axes.set(xscale="log", xlabel=words, ylabel=scoring.axis)
        costs = [model[key] for model in shown.values()]
        lows, highs = ([100 * model[end] for model in shown.values()] for end in _with_bounds(scoring.key)[1:])
        axes.set(xlim=(min(costs) / 1.6, max(costs) * 1.6), ylim=(min(lows) - 0.5, max(highs) + 0.5))
        ticks = _ticks(min(costs) / 1.6, max(costs) * 1.6)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(axis="y", linewidth=0.4, alpha=0.25, color=INK)
        axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), handletextpad=0.3)
    return svg()


def _with_bounds(key: str) -> tuple[str, str, str]:
    return key, f"{key}_low", f"{key}_high"


def label_scores(models: Mapping[str, Doubles], labels: Sequence[str]) -> str:
    """F1 of each of several labels, a bar each model."""
    height = 0.9 + 0.2 * len(models) * len(labels)
    with _figure(1, 6.0, height, "labels") as (figure, svg):
        axes = _panels(figure, 1, 1)[0]
        for place, (name, values) in enumerate(models.items()):
            middles = np.arange(len(labels)) + 0.8 * (place + 0.5) / len(models) - 0.4
            axes.barh(middles, values, height=0.7 / len(models), color=COLOURS[name], label=MODELS[name])
        axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
        axes.invert_yaxis()
        axes.set(xlim=(0, 1), xlabel="F1")
        axes.tick_params(axis="y", length=0)
        axes.legend(frameon=False, ncols=len(models), loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=1)
    return svg()


def answers_against_gold(models: Mapping[str, Floats], gold: Floats) -> str:
    """Answers over gold numbers, a panel each model; on the diagonal they are equal."""
    ends = (
        [float(values.min()) for values in (gold, *models.values())],
        [float(values.max()) for values in (gold, *models.values())],
    )
    low, high = min(ends[0]), max(ends[1])
    with _figure(len(models), 2.4, 2.5, "answers") as (figure, svg):
        panels = _panels(figure, 1, len(models))
        for axes, (name, values) in zip(panels, models.items(), strict=True):
            # As a picture inside: a vector mark for each of many rows would make a page of megabytes.
            axes.scatter(gold, values, s=4, alpha=0.35, color=COLOURS[name], linewidths=0, rasterized=True)
            axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set(xlim=(low, high), ylim=(low, high), xlabel="gold", title=MODELS[name])
        panels[0].set_ylabel("answer")
    return svg()


def _short(label: str) -> str:
    return label if len(label) <= 14 else f"{label[:13]}…"


@dataclass(frozen=True)
class Cost:
    """A model in the picture of a search: its score as a share, what it costs, and whether nothing beats it."""

    name: str
    kind: str
    score: float
    milliseconds: float
    megabytes: float
    front: bool


def pareto(models: Sequence[Cost], dots: Sequence[tuple[float, float, float]], scoring: Scoring) -> tuple[str, bytes]:
    """The score over milliseconds and over megabytes, as SVG text and as PNG on white.

    Args:
        models: named points; a line joins those of the front.
        dots: (milliseconds, megabytes, score) of further trials, small and without a name.
        scoring: what the score is.
    """
    buffer = io.BytesIO()
    with _figure(2, 4.6, 3.6, "pareto") as (figure, svg):
        panels = _panels(figure, 1, 2)
        for place, (axes, words) in enumerate(zip(panels, ("ms for one text", "MB of the file"), strict=True)):
            _costs(axes, [(one, (one.milliseconds, one.megabytes)[place]) for one in models])
            axes.scatter([dot[place] for dot in dots], [100 * dot[2] for dot in dots], s=7, color=INK, alpha=0.35)
            axes.set(xlabel=f"{words} (log scale)")
        panels[0].set_ylabel(f"{scoring.words} on dev, %")
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return svg(), buffer.getvalue()


def _costs(axes: Axes, models: Sequence[tuple[Cost, float]]) -> None:
    """One panel: (model, its cost)."""
    line = sorted((cost, 100 * one.score) for one, cost in models if one.front)
    axes.plot(*zip(*line, strict=True), color=INK, linewidth=0.8, alpha=0.5)
    for one, cost in models:
        axes.plot(cost, 100 * one.score, "o", markersize=6, color=KINDS[one.kind], alpha=1 if one.front else 0.5)
        axes.annotate(one.name, (cost, 100 * one.score), (4, 5), textcoords="offset points", fontsize=8)
    costs = [cost for _, cost in models]
    low, high = min(costs) / 1.8, max(costs) * 2.5
    ticks = _ticks(low, high)
    axes.set(xscale="log", xlim=(low, high))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", linewidth=0.4, alpha=0.25, color=INK)


def _confusion(axes: Axes, counts: Counts, labels: Sequence[str], colour: str, *, small: bool) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    tint = np.broadcast_to(mpl.colors.to_rgb(colour), (*shares.shape, 3))
    # Opacity, not lightness, so that the shades hold on a light and on a dark page.
    shades = np.concatenate([tint, 0.08 + 0.82 * shares[..., None]], axis=-1)
    places = range(len(labels))
    axes.pcolormesh(shades, rasterized=len(labels) > MOST_NAMES)
    axes.set(aspect="equal", xlabel="predicted")
    axes.set_ylabel("gold")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(labels) > MOST_NAMES:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    names = [_short(label) for label in labels]
    middles = [place + 0.5 for place in places]
    axes.set_xticks(
        middles, names, rotation=0 if small and max(map(len, names)) < 10 else 40, ha="center" if small else "right"
    )
    axes.set_yticks(middles, names, rotation=90 if small else 0, va="center")
    if len(labels) <= MOST_NUMBERS:
        for row in places:
            for column in places:
                axes.text(column + 0.5, row + 0.5, f"{counts[row, column]:,}", ha="center", va="center")


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten within the range."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]


def _panels(figure: Figure, rows: int, columns: int) -> list[Axes]:
    return cast(list[Axes], list(figure.subplots(rows, columns, squeeze=False).flat))


class _Svg:
    """The figure's text, once its context has ended."""

    text = ""

    def __call__(self) -> str:
        return self.text


@contextmanager
def _figure(columns: int, width: float, height: float, name: str) -> Iterator[tuple[Figure, _Svg]]:
    """A figure of `columns` panels of `width` inches; without pyplot, whose state would outlive it."""
    svg = _Svg()
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc would change the bytes
        mpl.rcParams.update(cast(Any, {**STYLE, "svg.hashsalt": name}))
        figure = Figure(figsize=(columns * width, height), layout="constrained")
        yield figure, svg
        svg.text = _render(figure)


def _render(figure: Figure) -> str:
    """SVG without date, version, document type and element names, which would collide with another figure's."""
    buffer = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    return re.sub(r"(?<=\S)[ \t]+$", "", text, flags=re.MULTILINE)
