"""Whether a student is worth more than the teacher that is quantized."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from potstill.artifacts import canonical_json
from potstill.config.promotion_params import Gate
from potstill.evaluation.gates import judge
from potstill.evaluation.teacher_forms import add_advantages, fastest_form, quantized_note, quantized_sentence

OFF = Gate(
    min_teacher_ratio=None, min_gain_over_control_upper=None, max_file_mb=None, max_loss_to_champion=None,
    min_advantage=1.2,
)  # fmt: skip
PARTS = ("difference", "low", "high", "speedup", "smaller")


def _metrics(difference: float, low: float, high: float, *, speedup: float, smaller: float) -> dict[str, Any]:
    outcome = "BEATS" if low > 0 else "LOSES" if high < 0 else "NO DIFFERENCE"
    comparison = {"outcome": outcome, "difference": difference, "low": low, "high": high}
    return {
        "task": "single_label",
        "shipped": "int8",
        "rows": 2000,
        "quantized_teacher": {"member": 0, "members": 1, "parameters": 10},
        "models": {"int8": {"accuracy": 0.867}, "teacher_int8": {"accuracy": 0.868}},
        "comparison": {"teacher_int8": comparison | {"speedup": speedup, "smaller": smaller}},
    }


def _verdict(metrics: dict[str, Any]) -> tuple[bool, str]:
    (check,) = [check for check in judge(metrics, OFF, None).checks if check.name == "min_advantage"]
    json.loads(canonical_json(judge(metrics, OFF, None).to_json()))  # refuses NaN
    return check.passed, check.sentence


@pytest.mark.parametrize(
    ("numbers", "speedup", "smaller", "passed", "words"),
    [
        ((-0.001, -0.01, 0.008), 1.47, 1.34, True, "1.47x meets its minimum of 1.2x"),
        ((-0.001, -0.01, 0.008), 1.1, 1.2, True, "1.2x meets its minimum"),
        ((-0.02, -0.03, -0.01), 1.1, 1.1, False, "not worth its loss next to the quantized teacher: -0.02 of accuracy"),
        ((-0.001, -0.01, 0.008), 1.1, 0.9, False, "not worth its training next to the quantized teacher"),
        ((-0.02, -0.03, -0.01), 1.1, 1.3, True, "1.3x meets its minimum"),
        ((0.02, 0.01, 0.03), 0.5, 0.5, True, "its score is above the quantized teacher's beyond noise"),
    ],
)
def test_a_student_has_to_be_better_or_faster_or_smaller(
    numbers: tuple[float, float, float], speedup: float, smaller: float, passed: bool, words: str
) -> None:
    verdict, sentence = _verdict(_metrics(*numbers, speedup=speedup, smaller=smaller))
    assert verdict == passed
    assert words in sentence
    assert passed or "(gate.min_advantage); serve the quantized teacher" in sentence


numbers = some.floats(-1, 1)


@given(
    values=some.lists(numbers, min_size=3, max_size=3).map(sorted),
    costs=some.tuples(some.floats(0.1, 3), some.floats(0.1, 3)),
    gain=some.floats(0, 1),
    part=some.sampled_from(["score", "speedup", "smaller"]),
)
def test_raising_a_number_never_turns_pass_into_fail(
    values: list[float], costs: tuple[float, float], gain: float, part: str
) -> None:
    low, difference, high = values
    before = _metrics(difference, low, high, speedup=costs[0], smaller=costs[1])
    after = copy.deepcopy(before)
    comparison = after["comparison"]["teacher_int8"]
    for key in ("difference", "low", "high") if part == "score" else (part,):
        comparison[key] += gain
    assert _verdict(after)[0] or not _verdict(before)[0]


@given(part=some.sampled_from(PARTS), value=some.sampled_from([None, math.nan, math.inf, "1", True]))
def test_what_is_no_finite_number_fails(part: str, value: Any) -> None:
    metrics = _metrics(0.02, 0.01, 0.03, speedup=2.0, smaller=2.0)
    metrics["comparison"]["teacher_int8"][part] = value
    assert _verdict(metrics) == (
        False, "the comparison with the quantized teacher is missing, which fails gate.min_advantage"
    )  # fmt: skip


def test_without_a_quantized_teacher_the_gate_says_why() -> None:
    metrics = _metrics(0.0, 0.0, 0.0, speedup=1.0, smaller=1.0) | {"quantized_teacher": {"absent": "it is too large"}}
    assert _verdict(metrics) == (True, "there is no quantized teacher to compare with: it is too large")
    assert quantized_note(metrics) == "No Teacher INT8: it is too large"
    # A missing section is no reason.
    metrics = {"models": {}, "comparison": {}}
    assert not _verdict(metrics)[0]


def test_a_note_names_the_teacher_that_was_quantized() -> None:
    assert quantized_note({"quantized_teacher": {"member": 0, "members": 1}}) is None
    assert quantized_note({"quantized_teacher": {"member": 1, "members": 3}}) == (
        "Teacher INT8: teacher 2 of 3 alone, the best on dev of those that answer every label"
    )


def test_the_verdict_names_the_comparison_where_the_gate_is_off() -> None:
    metrics = _metrics(-0.02, -0.03, -0.01, speedup=1.1, smaller=1.1)
    gate = OFF.model_copy(update={"min_advantage": None})
    assert judge(metrics, gate, None).sentence == (
        "passed: all 1 gates; LOSES to the quantized teacher (-3.0 to -1.0 points), 1.10x its texts/s, 1.10x smaller"
    )
    assert quantized_sentence(metrics, "int8") == (
        "Student INT8 loses to the quantized teacher: 86.7% against 86.8%, -2.0 points of accuracy (-3.0 to -1.0), "
        "1.10x its texts/s, 1.10x smaller"
    )


@pytest.mark.parametrize(("low", "passed"), [(0.01, True), (-0.01, False)])
def test_a_student_can_be_asked_to_beat_tfidf(low: float, passed: bool) -> None:
    metrics = _metrics(0.0, 0.0, 0.0, speedup=2.0, smaller=2.0)
    outcome = "BEATS" if passed else "NO DIFFERENCE"
    metrics["comparison"]["tfidf"] = {"outcome": outcome, "difference": 0.02, "low": low, "high": 0.05}
    gate = OFF.model_copy(update={"must_beat": ["tfidf"]})
    (check,) = [check for check in judge(metrics, gate, None).checks if check.name == "must_beat"]
    assert check.passed == passed
    assert check.sentence.startswith("gain over TF-IDF 0.02 (")
    del metrics["comparison"]["tfidf"]
    assert "the verdict against TF-IDF is missing, which fails gate.must_beat" in judge(metrics, gate, None).sentence


def test_the_speedup_is_against_the_fastest_form() -> None:
    metrics: dict[str, Any] = {
        "models": {
            "teacher": {"texts_per_second": 100.0, "megabytes": 90.0},
            "teacher_int8": {"texts_per_second": 400.0, "megabytes": 23.4},
            "int8": {"texts_per_second": 600.0, "megabytes": 15.6},
        },
        "comparison": {"teacher_int8": {}},
    }
    add_advantages(metrics, "int8")
    assert metrics["comparison"] == {
        "speedup": 1.5, "speedup_over_teacher": 6.0, "teacher_int8": {"speedup": 1.5, "smaller": pytest.approx(1.5)},
    }  # fmt: skip
    assert fastest_form(metrics) == "teacher_int8"
    del metrics["models"]["teacher_int8"]
    add_advantages(metrics, "int8")
    assert metrics["comparison"]["speedup"] == 6.0
