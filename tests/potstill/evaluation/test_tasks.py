"""Scores, comparisons, figures and limits of several labels and of numbers, against scikit-learn, SciPy and by hand."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn import metrics as reference

from potstill.config.evaluation_params import Evaluate
from potstill.config.promotion_params import Gate
from potstill.evaluation.gates import judge
from potstill.evaluation.pages import plots, table
from potstill.evaluation.pages.differences import differing_rows
from potstill.evaluation.pages.figures import label_bars
from potstill.evaluation.summary import Answers, compare, score
from potstill.evaluation.teacher_gain import Seed, flatten, prove
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.scores import numbers, several
from potstill.scores.metrics import micro_f1, r_squared
from potstill.scores.probabilities import sigmoid
from potstill.scores.statistics import compare_scores

random = np.random.default_rng(4)
SETTINGS = Evaluate(bootstrap=400)
ROWS = 300
GOLD_FLAGS = (random.random((ROWS, 3)) < [0.5, 0.3, 0.1]).astype(np.int64)
GOLD_NUMBERS = random.normal(3, 2, ROWS).round(1).astype(np.float32)
OPTIONS: dict[str, Any] = {"replicates": 400, "confidence": 0.95, "seed": 1}


def flag_logits(noise: float, seed: int = 0) -> np.ndarray:
    noisy = np.random.default_rng(seed).normal(0, noise, GOLD_FLAGS.shape)
    return ((2 * GOLD_FLAGS - 1) * 2 + noisy).astype(np.float32)


def number_logits(noise: float, seed: int = 0) -> np.ndarray:
    return (GOLD_NUMBERS + np.random.default_rng(seed).normal(0, noise / 3, ROWS)).astype(np.float32)[:, None]


GOLD: dict[TaskKind, Any] = {"multi_label": GOLD_FLAGS, "regression": GOLD_NUMBERS}
LOGITS = {"multi_label": flag_logits, "regression": number_logits}
TASKS: tuple[TaskKind, ...] = ("multi_label", "regression")


def models(task: TaskKind) -> dict[str, Answers]:
    noises = {"teacher": 1.5, "student": 1.6, "int8": 1.8, "control": 4.0}
    return {
        name: Answers(LOGITS[task](noise, seed), 1.0, 10, 1_500_000, task)
        for seed, (name, noise) in enumerate(noises.items())
    }


def test_f1_and_subset_accuracy_are_those_of_scikit_learn() -> None:
    answers = flag_logits(3.0) > 0
    found = several.moments(GOLD_FLAGS, answers).values
    assert found == {
        "micro_f1": pytest.approx(reference.f1_score(GOLD_FLAGS, answers, average="micro")),
        "macro_f1": pytest.approx(reference.f1_score(GOLD_FLAGS, answers, average="macro")),
        "subset_accuracy": pytest.approx(reference.accuracy_score(GOLD_FLAGS, answers)),
    }
    assert micro_f1(GOLD_FLAGS, answers) == pytest.approx(found["micro_f1"])
    each = reference.f1_score(GOLD_FLAGS, answers, average=None)
    assert several.label_f1(GOLD_FLAGS, answers) == pytest.approx(each)


def test_errors_and_correlations_are_those_of_scikit_learn_and_scipy() -> None:
    from scipy import stats

    answers = number_logits(2.0)[:, 0].round(1)  # with ties
    found = numbers.moments(GOLD_NUMBERS, answers).values
    assert found == {
        "r2": pytest.approx(reference.r2_score(GOLD_NUMBERS, answers), rel=1e-5),
        "mse": pytest.approx(reference.mean_squared_error(GOLD_NUMBERS, answers), rel=1e-5),
        "mae": pytest.approx(reference.mean_absolute_error(GOLD_NUMBERS, answers), rel=1e-5),
        "pearson": pytest.approx(stats.pearsonr(GOLD_NUMBERS, answers).statistic, rel=1e-5),
        "spearman": pytest.approx(stats.spearmanr(GOLD_NUMBERS, answers).statistic, rel=1e-9),
    }
    assert r_squared(GOLD_NUMBERS, answers) == pytest.approx(found["r2"], rel=1e-6)


def test_the_mean_alone_explains_nothing_and_correlates_with_nothing() -> None:
    found = numbers.moments(GOLD_NUMBERS, np.full(ROWS, GOLD_NUMBERS.astype(np.float64).mean())).values
    assert found["r2"] == pytest.approx(0, abs=1e-9)
    assert found["pearson"] == found["spearman"] == 0


def test_an_interval_is_that_of_a_plain_bootstrap() -> None:
    answers = flag_logits(3.0) > 0
    found = several.moments(GOLD_FLAGS, answers).intervals(replicates=2000, confidence=0.9, seed=3)["micro_f1"]
    generator = np.random.default_rng(9)
    drawn = [generator.integers(ROWS, size=ROWS) for _ in range(2000)]
    plain = [micro_f1(GOLD_FLAGS[rows], answers[rows]) for rows in drawn]
    assert found == pytest.approx(np.quantile(plain, [0.05, 0.95]), abs=0.01)


@pytest.mark.parametrize(("task", "key"), [("multi_label", "micro_f1"), ("regression", "r2")])
def test_a_better_model_beats_and_equal_ones_cannot_be_told_apart(task: TaskKind, key: str) -> None:
    good, same, bad = (
        Answers(LOGITS[task](noise, seed), 1.0, 1, 1, task).moments(GOLD[task])
        for noise, seed in ((1.5, 1), (1.5, 2), (5.0, 3))
    )
    assert compare_scores([good], [bad], key, **OPTIONS).outcome == "BEATS"
    assert compare_scores([bad], [good], key, **OPTIONS).outcome == "LOSES"
    assert compare_scores([good], [same], key, **OPTIONS).outcome == "NO DIFFERENCE"
    alike = compare_scores([good], [good], key, **OPTIONS)
    assert (alike.difference, alike.low, alike.high) == (0, 0, 0)


@pytest.mark.parametrize("task", TASKS)
def test_the_summary_of_a_task(task: TaskKind) -> None:
    found, key = models(task), KINDS[task].scoring.key
    scores = {name: score(GOLD[task], answers, SETTINGS) for name, answers in found.items()}
    for entry in scores.values():
        assert entry[f"{key}_low"] < entry[key] < entry[f"{key}_high"]
        assert ("ece" in entry) == ("temperature" in entry) == (task == "multi_label")
        assert all(math.isfinite(value) for value in entry.values())
    comparison = compare(GOLD[task], found, "int8", SETTINGS, seed=1)
    assert comparison["control"]["outcome"] == "BEATS"
    assert comparison["gain_over_control"] == pytest.approx(scores["int8"][key] - scores["control"][key], abs=1e-6)
    assert comparison["teacher_ratio"] == pytest.approx(scores["int8"][key] / scores["teacher"][key], rel=1e-6)
    assert comparison["teacher_ratio_low"] < comparison["teacher_ratio"] < comparison["teacher_ratio_high"]
    likeness = {"agreement", "kl"} if task == "multi_label" else {"correlation", "rmse"}
    assert likeness <= comparison.keys()


def test_the_divergence_of_several_labels_by_hand() -> None:
    teacher, student = np.array([[0.9, 0.5]]), np.array([[0.6, 0.5]])
    expected = 0.9 * np.log(0.9 / 0.6) + 0.1 * np.log(0.1 / 0.4)
    assert several.divergence(_logits(teacher), _logits(student)) == pytest.approx(expected)
    sure = np.array([[800.0, -800.0]])
    assert several.divergence(sure, _logits(student)) == pytest.approx(-np.log(0.6) - np.log(0.5))
    assert several.divergence(sure, -sure) == pytest.approx(1600)  # large, not infinite


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities) - np.log1p(-probabilities)


def test_one_temperature_calibrates_all_labels() -> None:
    chances = random.random((2000, 3))
    labels = (random.random((2000, 3)) < chances).astype(np.int64)
    logits = np.log(chances / (1 - chances))
    assert KINDS["multi_label"].temperature((3 * logits).astype(np.float32), labels) == pytest.approx(3, rel=0.1)
    assert KINDS["regression"].temperature(logits[:, :1], labels[:, 0]) is None
    assert several.reliability(labels, sigmoid(logits), 15).ece < 0.03


@pytest.mark.parametrize("task", TASKS)
def test_the_table_of_a_task_fits_a_terminal(task: TaskKind) -> None:
    from rich.console import Console

    entries = {name: score(GOLD[task], answers, SETTINGS) for name, answers in models(task).items()}
    for entry in entries.values():
        entry |= {"p50_ms": 10.25, "p99_ms": 12.5, "texts_per_second": 1234.0, "parameters": 22_713_986}
    content = {"task": task, "shipped": "int8", "confidence": 0.95, "models": entries}
    console = Console(width=80, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        console.print(table.render_table(content))
        text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert f"{100 * entries['teacher'][KINDS[task].scoring.key]:.1f} (" in text
    assert all(len(row) == len(table.headers(content)) for row in table.rows(content))


def test_figures_of_labels_are_bars_and_those_of_numbers_svg() -> None:
    flags = {name: several.label_f1(GOLD_FLAGS, answers.logits > 0) for name, answers in models("multi_label").items()}
    values = {name: answers.numbers for name, answers in models("regression").items()}
    bars = dict(label_bars(flags, ["<a>", "b", "c"]))
    assert [bar.value for bar in bars["b"]] == [scores[1] for scores in flags.values()]
    for svg in plots.answers_against_gold(values, GOLD_NUMBERS).values():
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert len(svg) < 300_000


def test_a_disputed_label_is_named_with_what_each_says() -> None:
    teacher = Answers(np.array([[3.0, -3.0], [0.1, 2.0]]), 1.0, 1, 1, "multi_label")
    student = Answers(np.array([[-2.0, -3.0], [-0.1, 2.0]]), 1.0, 1, 1, "multi_label")
    found = differing_rows(["x", "y"], np.array([[1, 0], [0, 1]]), teacher, student, ["late", "rude"], 5).rows
    assert [(item.text, item.gold, item.rival, item.student) for item in found] == [
        ("x", "late", "late", "not late"),
        ("y", "not late", "late", "not late"),
    ]
    assert found[0].student_probability == pytest.approx(1 / (1 + math.exp(-2)))


def test_numbers_farthest_apart_come_first() -> None:
    teacher, student = (
        Answers(np.array(values)[:, None], 1.0, 1, 1, "regression") for values in ([1.0, 2.0, 3.0], [1.5, 2.0, 5.0])
    )
    found = differing_rows(["a", "b", "c"], np.array([1.0, 2.0, 3.5]), teacher, student, ["score"], 5).rows
    assert [(item.text, item.gold, item.rival, item.student) for item in found] == [
        ("c", "3.5", "3", "5"),
        ("a", "1", "1", "1.5"),
    ]


METRICS: dict[str, Any] = {
    "shipped": "int8",
    "models": {
        "int8": {
            "micro_f1": 0.8, "macro_f1": 0.7, "subset_accuracy": 0.6, "ece": 0.1,
            "r2": 0.8, "mse": 0.5, "mae": 0.4, "pearson": 0.9, "spearman": 0.85, "megabytes": 10.0,
        }
    },
    "comparison": {"teacher_ratio": 0.98, "control": {"high": 0.1}},
}  # fmt: skip
LIMITS: list[tuple[TaskKind, str, float, float]] = [
    ("multi_label", "min_score", 0.8, 0.81),
    ("multi_label", "min_micro_f1", 0.8, 0.81),
    ("multi_label", "min_macro_f1", 0.7, 0.71),
    ("multi_label", "min_subset_accuracy", 0.6, 0.61),
    ("multi_label", "max_ece", 0.1, 0.09),
    ("regression", "min_score", 0.8, 0.81),
    ("regression", "max_mse", 0.5, 0.49),
    ("regression", "max_mae", 0.4, 0.39),
    ("regression", "min_pearson", 0.9, 0.91),
    ("regression", "min_spearman", 0.85, 0.86),
]


@pytest.mark.parametrize(("task", "name", "met", "missed"), LIMITS)
def test_a_limit_of_a_task_is_met_and_missed(task: TaskKind, name: str, met: float, missed: float) -> None:
    assert judge(METRICS, Gate(**{name: met}), None, task).passed  # type: ignore[arg-type]
    verdict = judge(METRICS, Gate(**{name: missed}), None, task)  # type: ignore[arg-type]
    assert [check.name for check in verdict.checks if not check.passed] == [name]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_judged_by_its_own_score_alone(task: TaskKind) -> None:
    key = KINDS[task].scoring.key
    assert not judge({**METRICS, "models": {"int8": {"accuracy": 1.0}}}, Gate(), None, task).passed
    assert judge(METRICS, Gate(), {key: 0.8}, task).passed
    lost = judge(METRICS, Gate(), {key: 0.9}, task)
    assert f"{KINDS[task].scoring.words} lost to the champion 0.1" in lost.sentence
    assert not judge(METRICS, Gate(), {"accuracy": 0.1}, task).passed


def test_the_noise_between_training_seeds_widens_the_interval() -> None:
    firsts = [Answers(number_logits(noise, 1), 1.0, 1, 1, "regression") for noise in (1.0, 3.0)]
    second = Answers(number_logits(2.0, 2), 1.0, 1, 1, "regression").moments(GOLD_NUMBERS)
    good, bad = (answers.moments(GOLD_NUMBERS) for answers in firsts)
    alone = compare_scores([good], [second], "r2", **OPTIONS)
    both = compare_scores([good, bad], [second, second], "r2", **OPTIONS)
    gains = [one.values["r2"] - second.values["r2"] for one in (good, bad)]
    assert both.difference == pytest.approx(sum(gains) / 2)
    assert alone.outcome == "BEATS"
    assert both.outcome == "NO DIFFERENCE"  # one of two seeds is worse
    assert both.low < gains[1] + 0.05 < gains[0] - 0.05 < both.high
    with pytest.raises(ValueError, match="1 and 0 training seeds"):
        compare_scores([good], [], "r2", **OPTIONS)


@pytest.mark.parametrize("task", TASKS)
def test_the_proof_of_a_task(task: TaskKind) -> None:
    found = models(task)
    seeds = [
        Seed(number, {"student": found["int8"], "pretrained": found["control"], "initialised": found["student"]})
        for number in (1, 2)
    ]
    proof = prove(GOLD[task], found["teacher"], seeds, SETTINGS, bootstrap_seed=1)
    assert proof["verdicts"]["pretrained"]["outcome"] == "BEATS"
    assert len(proof["verdicts"]["pretrained"]["differences"]) == 2
    key = KINDS[task].scoring.key
    assert next(iter(proof["models"]["student"])) == key
    assert all(math.isfinite(value) for value in flatten(proof).values())
