"""Failures are counted as they were planted, for every task."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.config.behaviour_params import Behaviour
from potstill.errors import ModelError
from potstill.evaluation.behaviour.cases import BehaviourTest, Case
from potstill.evaluation.behaviour.catalogue import perturbed_tests
from potstill.evaluation.behaviour.judging import Settings, run_tests
from potstill.evaluation.behaviour.predicting import Predict, Predictions, from_probabilities, from_student
from potstill.inference.runtime import Student
from potstill.kinds.task_names import TaskKind
from potstill.scores.statistics import wilson_interval
from tests.potstill.inference.test_runtime import write_serving

LABELS = ["negative", "positive"]
SETTINGS = Settings("single_label", LABELS, tolerance=0.1, confidence=0.95, replicates=500, seed=0, examples=2)


def model(score: Callable[[Any], float], task: TaskKind = "single_label") -> Predict:
    """A model of one probability: that of "positive"; of a regression, a number."""

    def probabilities(texts: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
        scores = np.array([score(text) for text in texts])
        return scores[:, None] if task == "regression" else np.stack([1 - scores, scores], axis=1)

    return from_probabilities(probabilities, task, LABELS, "the planted model")


def test_a_model_that_looks_at_case_fails_at_the_planted_rate() -> None:
    # One text in four has the word that the planted model reads in small letters only.
    texts = [f"good film {number}" if number % 4 == 0 else f"a film {number}" for number in range(400)]
    tests = perturbed_tests(texts, None, ["case_upper", "space_doubled"], Behaviour(rows=400), seed=0)
    models = {
        "int8": model(lambda text: 0.9 if "good" in text else 0.2),
        "teacher": model(lambda text: 0.9 if "good" in text.lower() else 0.2),
    }
    case, space = run_tests(tests, models, "int8", SETTINGS)
    failures = case.models["int8"]
    assert (failures.rows, failures.failures, failures.failure_rate) == (400, 100, 0.25)
    assert (failures.failure_rate_low, failures.failure_rate_high) == wilson_interval(100, 400, 0.95)
    assert case.models["teacher"].failures == 0
    gain = case.gains["teacher"]
    assert gain.outcome == "LOSES"
    assert gain.difference == pytest.approx(-0.25)
    assert gain.low < -0.25 < gain.high < 0
    assert space.gains["teacher"].outcome == "NO DIFFERENCE"
    assert [example.text for example in failures.examples if example.original] == [
        str(example.original).upper() for example in failures.examples
    ]
    assert len(failures.examples) == 2
    first = failures.examples[0]
    assert (first.before, first.after, first.change) == ("positive", "negative", pytest.approx(0.7))
    assert first.scores_before == pytest.approx([0.1, 0.9])
    assert json.loads(json.dumps(case.to_json()))["models"]["int8"]["failures"] == 100


def test_examples_are_those_of_the_largest_change() -> None:
    scores = {"a": 0.1, "A": 0.6, "b": 0.1, "B": 0.9, "c": 0.4, "C": 0.55, "d": 0.1, "D": 0.2}
    test = BehaviourTest("case", "INV", tuple(Case(text, text.upper()) for text in "abcd"))
    (result,) = run_tests([test], {"int8": model(scores.__getitem__)}, "int8", SETTINGS)
    assert result.models["int8"].failures == 3
    assert [example.original for example in result.models["int8"].examples] == ["b", "a"]


def test_a_direction_needs_the_tolerance_and_room() -> None:
    scores = {"a": 0.5, "A": 0.65, "b": 0.5, "B": 0.55, "c": 0.5, "C": 0.4, "d": 0.95, "D": 0.96}
    cases = tuple(Case(text, text.upper(), "positive") for text in "abcd")
    rises, falls = BehaviourTest("up", "DIR", cases, "rises"), BehaviourTest("down", "DIR", cases, "falls")
    up, down = run_tests([rises, falls], {"int8": model(scores.__getitem__)}, "int8", SETTINGS)
    assert (up.models["int8"].rows, up.models["int8"].failures) == (3, 2)  # 0.95 cannot rise by 0.1
    assert [example.original for example in up.models["int8"].examples] == ["c", "b"]
    assert up.models["int8"].examples[0].change == pytest.approx(-0.1)
    assert (down.models["int8"].rows, down.models["int8"].failures) == (4, 3)


def test_the_answer_to_a_template_has_to_be_right() -> None:
    test = BehaviourTest("mft", "MFT", (Case("good", None, "positive"), Case("bad", None, "negative")))
    (result,) = run_tests([test], {"int8": model(lambda text: 0.8)}, "int8", SETTINGS)
    (example,) = result.models["int8"].examples
    assert (example.original, example.text, example.expected, example.after) == (None, "bad", "negative", "positive")
    assert example.change == pytest.approx(0.8)


def test_several_labels_are_compared_as_a_set() -> None:
    def probabilities(texts: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([[0.9 if "n" in text else 0.1, 0.9 if "p" in text else 0.1] for text in texts])

    several = {"int8": from_probabilities(probabilities, "multi_label", LABELS, "it")}
    tests = [
        BehaviourTest("has", "MFT", (Case("n p", None, "positive"), Case("n", None, "positive"))),
        BehaviourTest(
            "exactly", "MFT", (Case("n p", None, ("positive", "negative")), Case("n p", None, ("positive",)))
        ),
        BehaviourTest("nothing", "MFT", (Case("x", None, ()),)),
        BehaviourTest("inv", "INV", (Case("n", "p"), Case("n", "n!"))),
    ]
    results = run_tests(tests, several, "int8", replace(SETTINGS, task="multi_label"))
    assert [(result.models["int8"].rows, result.models["int8"].failures) for result in results] == [
        (2, 1), (2, 1), (1, 0), (2, 1),
    ]  # fmt: skip


def test_numbers_move_in_units_of_their_deviation() -> None:
    scores = {"a": 10.0, "A": 10.4, "b": 10.0, "B": 10.6}
    settings = replace(SETTINGS, task="regression", labels=["score"], unit=5.0)
    cases = tuple(Case(text, text.upper()) for text in "ab")
    tests = [
        BehaviourTest("inv", "INV", cases),
        BehaviourTest("dir", "DIR", cases, "rises"),
        BehaviourTest("mft", "MFT", (Case("a", None, 10), Case("B", None, 9.0))),
    ]
    results = run_tests(tests, {"int8": model(scores.__getitem__, "regression")}, "int8", settings)
    assert [result.models["int8"].failures for result in results] == [1, 1, 1]
    assert results[0].models["int8"].examples[0].change == pytest.approx(0.12)
    assert results[2].models["int8"].examples[0].change == pytest.approx(0.32)


@pytest.mark.parametrize(
    ("task", "before", "after", "change"),
    [
        ("token_classification", [["LOC", 0, 4], ["PER", 6, 9]], [["LOC", 0, 4], ["ORG", 6, 9]], 2.0),
        ("token_classification", [["LOC", 0, 4]], [], 1.0),
        ("question_answering", [0, 4], None, 1.0),
        ("question_answering", [0, 4], [0, 5], 1.0),
    ],
)
def test_places_in_a_text_are_compared(task: TaskKind, before: Any, after: Any, change: float) -> None:
    answers = {"a": before, "A": after, "b": before, "B": before}

    def predict(texts: Sequence[Any]) -> Predictions:
        return Predictions([answers[text] for text in texts], np.empty((len(texts), 0)))

    test = BehaviourTest("inv", "INV", (Case("a", "A"), Case("b", "B")))
    (result,) = run_tests([test], {"int8": predict}, "int8", replace(SETTINGS, task=task))
    assert (result.models["int8"].failures, result.models["int8"].examples[0].change) == (1, change)


def test_a_test_that_applies_to_no_row_has_no_rate() -> None:
    models = {"int8": model(lambda text: 0.8), "teacher": model(lambda text: 0.8)}
    (result,) = run_tests([BehaviourTest("names", "INV", ())], models, "int8", SETTINGS)
    assert (result.models["int8"].rows, result.models["int8"].failure_rate, result.gains) == (0, None, {})


def test_each_text_is_asked_once_and_nan_is_refused() -> None:
    asked: list[Any] = []

    def predict(texts: Sequence[Any]) -> Predictions:
        asked.extend(texts)
        return Predictions(["positive"] * len(texts), np.full((len(texts), 2), 0.5))

    test = BehaviourTest("inv", "INV", (Case("a", "A"), Case("a", "b")))
    run_tests([test, test], {"int8": predict}, "int8", SETTINGS)
    assert asked == ["a", "A", "b"]
    with pytest.raises(ModelError, match="the planted model answers NaN or infinity on 3 of 3"):
        run_tests([test], {"int8": model(lambda text: np.nan)}, "int8", SETTINGS)


def test_a_served_student_is_tested(tiny_base: Path, tmp_path: Path) -> None:
    student = Student(write_serving(tiny_base, tmp_path / "serving", variant="fp32"), threads=1)
    texts = ["the good film", "a bad film"]
    predictions = from_student(student, "the student")(texts)
    expected = student.predict(texts)
    assert predictions.answers == [prediction.label for prediction in expected]
    np.testing.assert_array_equal(predictions.scores, [prediction.probabilities for prediction in expected])
    tests = perturbed_tests(texts, None, ["space_doubled"], Behaviour(), seed=0)
    settings = replace(SETTINGS, labels=student.card.labels)
    (result,) = run_tests(tests, {"student": from_student(student, "the student")}, "student", settings)
    assert (result.models["student"].rows, result.models["student"].failures) == (2, 0)
