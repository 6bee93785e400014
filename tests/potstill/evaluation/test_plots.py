from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from potstill.evaluation.naming import MODELS
from potstill.evaluation.pages import plots
from potstill.evaluation.pages.figures import Figures
from potstill.scores import metrics
from potstill.scores.probabilities import softmax

random = np.random.default_rng(0)
SCORES = {
    "teacher": {"accuracy": 0.86, "accuracy_low": 0.84, "accuracy_high": 0.875, "megabytes": 90.9, "p50_ms": 11.0},
    "int8": {"accuracy": 0.853, "accuracy_low": 0.835, "accuracy_high": 0.87, "megabytes": 17.9, "p50_ms": 1.1},
    "control": {"accuracy": 0.84, "accuracy_low": 0.82, "accuracy_high": 0.86, "megabytes": 70.0},
}


def _figures(classes: int) -> dict[str, str]:
    labels, logits = random.integers(0, classes, 200), random.normal(size=(200, classes))
    bins = metrics.reliability(labels, softmax(logits), 15)
    counts = metrics.confusion_matrix(labels, logits.argmax(axis=1), classes)
    size = plots.accuracy_against(SCORES, "megabytes", "MB")
    models = dict.fromkeys(MODELS, bins)
    maps = plots.confusion_maps(dict.fromkeys(MODELS, counts))
    return Figures(size, reliability=plots.reliability_diagrams(models, classes), maps=maps).files()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 7, 40])
def test_figures_are_well_formed_svg_that_loads_nothing(classes: int) -> None:
    assert len(_figures(classes)) == 1 + 2 * len(MODELS)
    for svg in _figures(classes).values():
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert svg.startswith("<svg")
        outside = re.findall(r'(?:href|src)="(?!#|data:)[^"]*"|url\((?!#)', svg)
        assert not outside
        assert plots.INK not in svg


@pytest.mark.slow
def test_the_same_numbers_give_the_same_bytes_in_another_process() -> None:
    code = (
        "from potstill.evaluation.pages import plots; from tests.potstill.evaluation.test_plots import SCORES;"
        "print(plots.accuracy_against(SCORES, 'p50_ms', 'ms'), end='')"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert other == plots.accuracy_against(SCORES, "p50_ms", "ms")


def test_a_users_matplotlib_settings_change_nothing() -> None:
    import matplotlib as mpl

    before = plots.accuracy_against(SCORES, "megabytes", "MB")
    with mpl.rc_context({"font.size": 20, "axes.grid": True, "svg.fonttype": "path"}):
        assert plots.accuracy_against(SCORES, "megabytes", "MB") == before
        assert mpl.rcParams["font.size"] == 20


def test_an_interval_may_leave_its_number_out() -> None:
    out = {"teacher": SCORES["teacher"] | {"accuracy_high": 0.8599999}, "int8": SCORES["int8"] | {"accuracy_low": 0.86}}
    assert "Teacher" in plots.accuracy_against(out, "megabytes", "MB")


def test_the_axis_shows_the_accuracies_and_leaves_out_a_model_without_the_cost() -> None:
    svg = plots.accuracy_against(SCORES, "p50_ms", "ms")
    assert "Teacher" in svg
    assert MODELS["control"] not in svg
    assert re.search(r">86</text>", svg)
