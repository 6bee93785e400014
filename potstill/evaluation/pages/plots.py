"""Figures as SVG text: the same bytes for the same numbers, in ink that follows a light or dark page."""

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

from potstill.evaluation.metrics_reading import with_bounds
from potstill.evaluation.naming import BASELINE, QUANTIZED, TITLES
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.scores.metrics import Counts, Floats, Reliability
from potstill.scores.scoring import Scoring

COLOURS = {
    "teacher": "#3b82c4",
    QUANTIZED: "#5b6ee1",
    "student": "#17a286",
    "int8": "#dd7a0c",
    "control": "#8a8f98",
    "initialised": "#9a6fb0",
    BASELINE: "#c2556b",
}
# The colour of a model that has none of its own.
_OTHER = "#6f7b3a"


def colour_of(model: str) -> str:
    """Return the colour of a model in every figure."""
    return COLOURS.get(model, _OTHER)


# Colours of the models of a search.
MODEL_COLOURS = {
    "teacher": COLOURS["teacher"],
    "layers": COLOURS["int8"],
    "static": COLOURS["student"],
    BASELINE: COLOURS[BASELINE],
}
# Stands for `currentColor`, the colour of the text around the figure, which matplotlib does not know.
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
# With more classes their names would be unreadable, and the vector cells too many.
MAX_NAMED_CLASSES = 30


def reliability_diagrams(models: Mapping[str, Reliability], classes: int) -> dict[str, str]:
    """Draw accuracy against confidence, a figure for each model; on the diagonal the model is calibrated.

    Args:
        models: name -> its bins.
        classes: how many there are, since the most probable of n has at least 1/n.
    """
    return {name: _reliability_diagram(name, bins, classes) for name, bins in models.items()}


def _reliability_diagram(name: str, bins: Reliability, classes: int) -> str:
    with _figure(1, 2.9, 2.6, f"reliability-{name}") as (figure, (axes,)):
        edges = np.linspace(0, 1, len(bins.rows) + 1)
        filled = bins.rows > 0
        axes.bar(
            edges[:-1][filled], bins.accuracy[filled], width=1 / len(bins.rows), align="edge",
            color=colour_of(name), alpha=0.75, linewidth=0.5, edgecolor=INK,
        )  # fmt: skip
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        title = f"{TITLES.get(name, name)}, ECE {bins.ece:.3f}"
        axes.set(xlim=(1 / classes, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=title)
        return _render(figure)


def accuracy_coverage(abstention: Mapping[str, Any], candidate: str) -> str:
    """Draw the accuracy on the surest texts over their share, with the target and the threshold's coverage.

    Args:
        abstention: the section of metrics.json.
        candidate: name of the model.
    """
    with _figure(1, 4.2, 2.8, "coverage") as (figure, (axes,)):
        coverage, accuracy = ([100 * value for value in abstention["curve"][key]] for key in ("coverage", "accuracy"))
        axes.plot(coverage, accuracy, color=colour_of(candidate), linewidth=1.6)
        axes.axhline(100 * abstention["target"], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        test = abstention["test"]
        if test is not None and test["right"] is not None:
            axes.plot(100 * test["coverage"], 100 * test["right"], "o", color=colour_of(candidate), markersize=7)
        lowest = min(*accuracy, 100 * abstention["target"])
        axes.set(xlim=(0, 101), ylim=(lowest - 1, 100.5), xlabel="texts answered, %", ylabel="of these right, %")
        return _render(figure)


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], words: str) -> dict[str, str]:
    """Draw the dev score and the loss of each training over its steps, a figure for each training.

    Args:
        curves: training -> `dev` and `loss` as (step, value) pairs; without dev scores it is left out.
        words: the task's score, in the axis title.
    """
    return {name: _learning_curve(name, curve, words) for name, curve in curves.items() if curve["dev"]}


def _learning_curve(name: str, curve: Mapping[str, Sequence[tuple[float, float]]], words: str) -> str:
    with _figure(1, 2.9, 3.2, f"learning-{name}", rows=2) as (figure, (upper, lower)):
        steps, scores = zip(*curve["dev"], strict=True)
        percent = 100 * np.array(scores)
        upper.plot(steps, percent, color=COLOURS["int8"], linewidth=1.6, marker="o", markersize=2.5)
        best = int(percent.argmax())
        upper.plot(steps[best], percent[best], "o", color=COLOURS["int8"], markersize=6)
        upper.set(title=f"{name}, best {percent[best]:.1f}", ylabel=f"dev {words}, %")
        if curve["loss"]:
            lower.plot(*zip(*curve["loss"], strict=True), color=INK, linewidth=1.0, alpha=0.7)
        lower.set(xlabel="optimiser step", ylabel="loss", xlim=upper.get_xlim())
        return _render(figure)


def confusion_maps(models: Mapping[str, Counts]) -> dict[str, str]:
    """Draw the confusion matrix of more than `MAX_NAMED_CLASSES` classes, a figure for each model.

    The shade is the share of the gold class. With fewer classes the page has a table (`figures.confusions`).
    """
    return {name: _confusion_map(name, counts) for name, counts in models.items()}


def accuracy_against(
    models: Mapping[str, Mapping[str, Any]], key: str, words: str, scoring: Scoring = KINDS["single_label"].scoring
) -> str:
    """Draw accuracy, or the score of another task, with its interval over a cost on a logarithmic axis.

    Args:
        models: name -> its entry of reports/metrics.json; a model without the cost is left out.
        key: the cost, such as `megabytes`.
        words: title of the axis.
        scoring: the task's score.
    """
    shown = {name: model for name, model in models.items() if model.get(key)}
    with _figure(1, 4.2, 3.0, f"accuracy-{key}") as (figure, (axes,)):
        for index, (name, model) in enumerate(shown.items()):
            # Models of one architecture cost the same, so neighbours are drawn two typographic points apart.
            offset = ScaledTranslation((2 * index - len(shown) + 1) / 72, 0, figure.dpi_scale_trans)
            score, low, high = (100 * model[part] for part in with_bounds(scoring.key))
            # A percentile interval may leave the score out, and one of a single row does so by rounding.
            axes.errorbar(
                model[key], score, yerr=[[max(score - low, 0)], [max(high - score, 0)]],
                fmt="o", markersize=6, capsize=3, linewidth=1.4, color=colour_of(name), label=TITLES.get(name, name),
                transform=axes.transData + offset,
            )  # fmt: skip
        costs = [model[key] for model in shown.values()]
        lows, highs = ([100 * model[end] for model in shown.values()] for end in with_bounds(scoring.key)[1:])
        axes.set(xlabel=words, ylabel=scoring.axis, ylim=(min(lows) - 0.5, max(highs) + 0.5))
        _scale_costs(axes, min(costs) / 1.6, max(costs) * 1.6)
        axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), handletextpad=0.3)
        return _render(figure)


def answers_against_gold(models: Mapping[str, Floats], gold: Floats) -> dict[str, str]:
    """Draw answers over gold numbers, a figure for each model; on the diagonal they are equal."""
    low = min(float(values.min()) for values in (gold, *models.values()))
    high = max(float(values.max()) for values in (gold, *models.values()))
    return {name: _answers_against_gold(name, values, gold, low, high) for name, values in models.items()}


def _answers_against_gold(name: str, values: Floats, gold: Floats, low: float, high: float) -> str:
    with _figure(1, 2.9, 2.7, f"answers-{name}") as (figure, (axes,)):
        # Rasterized: a vector mark for each of many rows would make a page of megabytes.
        axes.scatter(gold, values, s=4, alpha=0.35, color=colour_of(name), linewidths=0, rasterized=True)
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="gold", ylabel="answer", title=TITLES.get(name, name))
        return _render(figure)


@dataclass(frozen=True)
class Cost:
    """A model in the figure of a search: its score as a share, its costs, and whether it is on the Pareto front."""

    name: str
    kind: str
    score: float
    milliseconds: float
    megabytes: float
    front: bool


# The costs of a search's figure: title of the axis, and field of `Cost`.
_COSTS = (("ms for one text", "milliseconds"), ("MB of the file", "megabytes"))


def pareto(models: Sequence[Cost], dots: Sequence[tuple[float, float, float]], scoring: Scoring) -> tuple[str, bytes]:
    """Draw the score over milliseconds and over megabytes, as SVG text and as PNG on white.

    Args:
        models: named points; a line joins those of the front.
        dots: (milliseconds, megabytes, score) of the other trials, drawn small and without a name.
        scoring: the task's score.
    """
    buffer = io.BytesIO()
    with _figure(2, 4.6, 3.6, "pareto") as (figure, panels):
        for cost, axes in enumerate(panels):
            _pareto_panel(axes, models, dots, cost)
        panels[0].set_ylabel(f"{scoring.words} on dev, %")
        figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
        return _render(figure), buffer.getvalue()


def pareto_panels(models: Sequence[Cost], dots: Sequence[tuple[float, float, float]], scoring: Scoring) -> list[str]:
    """Draw the two panels of `pareto` as an SVG each, so that a narrow page shows one below the other."""
    panels = []
    for cost, (words, _) in enumerate(_COSTS):
        with _figure(1, 4.6, 3.6, f"pareto-{words}") as (figure, (axes,)):
            _pareto_panel(axes, models, dots, cost)
            axes.set_ylabel(f"{scoring.words} on dev, %")
            panels.append(_render(figure))
    return panels


def _pareto_panel(axes: Axes, models: Sequence[Cost], dots: Sequence[tuple[float, float, float]], cost: int) -> None:
    """Draw the panel of one cost, given by its index in `_COSTS` and in a dot."""
    words, name = _COSTS[cost]
    _plot_models(axes, [(model, getattr(model, name)) for model in models])
    axes.scatter([dot[cost] for dot in dots], [100 * dot[2] for dot in dots], s=7, color=INK, alpha=0.35)
    axes.set(xlabel=f"{words} (log scale)")


def _plot_models(axes: Axes, models: Sequence[tuple[Cost, float]]) -> None:
    """Plot models, each given with the cost of this panel."""
    line = sorted((cost, 100 * model.score) for model, cost in models if model.front)
    axes.plot(*zip(*line, strict=True), color=INK, linewidth=0.8, alpha=0.5)
    for model, cost in models:
        axes.plot(
            cost, 100 * model.score, "o", markersize=6, color=MODEL_COLOURS[model.kind], alpha=1 if model.front else 0.5
        )
        axes.annotate(model.name, (cost, 100 * model.score), (4, 5), textcoords="offset points", fontsize=8)
    costs = [cost for _, cost in models]
    _scale_costs(axes, min(costs) / 1.8, max(costs) * 2.5)


def _confusion_map(name: str, counts: Counts) -> str:
    with _figure(1, 4.2, 4.2, f"confusion-{name}") as (figure, (axes,)):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        tint = np.broadcast_to(mpl.colors.to_rgb(colour_of(name)), (*shares.shape, 3))
        # Opacity and not lightness, so that the shades work on a light and on a dark page.
        axes.pcolormesh(np.concatenate([tint, 0.08 + 0.82 * shares[..., None]], axis=-1), rasterized=True)
        axes.set(aspect="equal", xlabel="predicted", ylabel="gold", title=TITLES.get(name, name), xticks=[], yticks=[])
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        return _render(figure)


def _scale_costs(axes: Axes, low: float, high: float) -> None:
    """Give the costs a logarithmic axis with ticks at 1, 2 and 5 times the powers of ten."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    axes.set(xscale="log", xlim=(low, high))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y", linewidth=0.4, alpha=0.25, color=INK)


@contextmanager
def _figure(
    columns: int, width: float, height: float, name: str, *, rows: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Make a figure of rows of `columns` panels of `width` inches, without pyplot, whose state would outlive it."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc would change the bytes
        mpl.rcParams.update(cast(Any, {**STYLE, "svg.hashsalt": name}))
        figure = Figure(figsize=(columns * width, height), layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _render(figure: Figure) -> str:
    """Render SVG without date, version, document type and element ids, which would collide with another figure's."""
    buffer = io.StringIO()
    no_metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    return re.sub(r"(?<=\S)[ \t]+$", "", text, flags=re.MULTILINE)
