from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from potstill.artifacts import canonical_json
from potstill.config.promotion_params import Gate
from potstill.evaluation.gate_checks import Check
from potstill.evaluation.gates import Verdict, judge, wear_in_words

METRICS: dict[str, Any] = {
    "shipped": "int8",
    "rows": 2000,
    "models": {
        "teacher": {"accuracy": 0.86},
        "student": {"accuracy": 0.5, "macro_f1": 0.5, "ece": 0.5, "megabytes": 70.0, "p99_ms": 99.0},
        "int8": {"accuracy": 0.855, "macro_f1": 0.85, "ece": 0.03, "megabytes": 17.9, "p99_ms": 1.5},
    },
    "comparison": {
        "teacher_ratio": 0.855 / 0.86,
        "teacher_ratio_low": 0.975,
        "gain_over_control": 0.012,
        "control": {"high": 0.02},
        "speedup": 6.0,
    },
}
GATE = Gate(
    min_accuracy=0.8, min_macro_f1=0.8, min_teacher_ratio_lower=0.95, max_ece=0.1, max_p99_ms=5.0, min_speedup=2.0,
    min_gain_over_control=0.0,
)  # fmt: skip
# Where each limit's number lies.
PLACES = {
    "min_accuracy": ("models", "int8", "accuracy"),
    "min_macro_f1": ("models", "int8", "macro_f1"),
    "max_ece": ("models", "int8", "ece"),
    "max_file_mb": ("models", "int8", "megabytes"),
    "max_p99_ms": ("models", "int8", "p99_ms"),
    "min_teacher_ratio": ("comparison", "teacher_ratio"),
    "min_teacher_ratio_lower": ("comparison", "teacher_ratio_low"),
    "min_gain_over_control": ("comparison", "gain_over_control"),
    "min_gain_over_control_upper": ("comparison", "control", "high"),
    "min_speedup": ("comparison", "speedup"),
}
OFF = Gate(min_teacher_ratio=None, min_gain_over_control_upper=None, max_file_mb=None, max_loss_to_champion=None)


def _changed(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    metrics: dict[str, Any] = copy.deepcopy(METRICS)
    inner = metrics
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    return metrics


def _failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def test_a_good_candidate_passes_every_limit() -> None:
    verdict = judge(METRICS, GATE, {"accuracy": 0.857})
    assert verdict.passed
    assert {check.name for check in verdict.checks} == {"scored", *PLACES, "max_loss_to_champion"}
    assert verdict.sentence == "passed: all 12 gates"


def test_what_passed_says_how_it_stands_to_the_controls() -> None:
    verdicts = {
        "pretrained": {"outcome": "NO DIFFERENCE", "difference": 0.003, "low": -0.004, "high": 0.011},
        "initialised": {"outcome": "BEATS", "difference": 0.02, "low": 0.012, "high": 0.03},
    }
    sentence = judge({**METRICS, "proof": {"verdicts": verdicts}}, GATE, None).sentence
    assert sentence == (
        "passed: all 11 gates; NO DIFFERENCE to the pretrained control (-0.4 to +1.1 points), "
        "BEATS the initialised control (+1.2 to +3.0 points)"
    )
    for odd in (None, 7, {"verdicts": 7}, {"verdicts": {"pretrained": None}}):
        assert judge({**METRICS, "proof": odd}, GATE, None).sentence == "passed: all 11 gates"


@pytest.mark.parametrize("name", PLACES)
def test_each_limit_fails_alone_and_says_by_how_much(name: str) -> None:
    bound = getattr(GATE, name)
    beyond = bound - 0.125 if name.startswith("min") else bound + 0.125
    verdict = judge(_changed(PLACES[name], beyond), GATE, None)
    assert _failed(verdict) == {name}
    assert "0.125" in verdict.sentence
    assert f"(gate.{name})" in verdict.sentence


@pytest.mark.parametrize("name", PLACES)
def test_a_number_at_its_limit_passes(name: str) -> None:
    assert judge(_changed(PLACES[name], getattr(GATE, name)), GATE, None).passed


numbers = some.one_of(some.none(), some.just(math.nan), some.just(math.inf), some.just(-math.inf))
rubbish = some.one_of(numbers, some.text(max_size=5), some.booleans(), some.lists(some.floats(), max_size=2))


@given(name=some.sampled_from(sorted(PLACES)), value=rubbish)
def test_what_is_no_finite_number_fails(name: str, value: Any) -> None:
    verdict = judge(_changed(PLACES[name], value), GATE, None)
    assert name in _failed(verdict)
    json.loads(canonical_json(verdict.to_json()))  # refuses NaN


@given(drop=some.sampled_from(sorted(PLACES)))
def test_what_is_missing_fails(drop: str) -> None:
    metrics = _changed(PLACES[drop], None)
    inner = metrics
    for part in PLACES[drop][:-1]:
        inner = inner[part]
    del inner[PLACES[drop][-1]]
    verdict = judge(metrics, GATE, None)
    assert drop in _failed(verdict)
    assert "is missing" in verdict.sentence


json_values = some.recursive(
    some.one_of(some.none(), some.booleans(), some.floats(), some.integers(), some.text(max_size=4)),
    lambda inner: (
        some.lists(inner, max_size=2) | some.dictionaries(some.sampled_from(["accuracy", "int8", "x"]), inner)
    ),
    max_leaves=4,
)


@given(part=some.sampled_from(["shipped", "models", "comparison"]), value=json_values)
def test_no_shape_of_metrics_passes_by_accident_or_raises(part: str, value: Any) -> None:
    metrics = {**METRICS, part: value}
    verdict = judge(metrics, GATE, {"accuracy": 0.85})
    assert verdict.passed == (value == METRICS[part])


@given(accuracy=some.floats(0, 1), limit=some.floats(0, 1))
def test_a_pass_means_within_the_limit(accuracy: float, limit: float) -> None:
    verdict = judge(_changed(PLACES["min_accuracy"], accuracy), OFF.model_copy(update={"min_accuracy": limit}), None)
    assert verdict.passed == (accuracy >= limit - 1e-9)


def test_a_null_limit_is_absent_but_an_unscored_candidate_never_passes() -> None:
    verdict = judge(METRICS, OFF, None)
    assert verdict.passed
    assert [check.name for check in verdict.checks] == ["scored"]
    for broken in ({}, {"models": {}}, _changed(PLACES["min_accuracy"], math.nan), {**METRICS, "shipped": None}):
        assert not judge(broken, OFF, None).passed


def test_a_verdict_without_checks_is_no_pass() -> None:
    assert not Verdict(()).passed
    assert Verdict(()).sentence == "refused: nothing was checked"


def test_a_test_split_that_is_worn_out_is_told_and_no_check() -> None:
    gate = Gate(warn_test_uses=3)
    assert wear_in_words(None, gate) == wear_in_words(2, gate) == wear_in_words(9, Gate(warn_test_uses=None)) == ""
    verdict = Verdict((Check("scored", 0.9, None, True, "the candidate was scored"),), "", wear_in_words(3, gate))
    assert verdict.passed
    assert verdict.sentence.startswith("passed: all 1 gates; the test split has judged 3 times")


def test_what_ships_is_judged() -> None:
    assert _failed(judge({**METRICS, "shipped": "fp32"}, GATE, None)) == {
        "min_accuracy", "min_macro_f1", "max_ece", "max_file_mb", "max_p99_ms",
    }  # fmt: skip


def test_the_loss_to_the_champion() -> None:
    assert judge(METRICS, GATE, {"accuracy": 0.86}).passed  # 0.005 in floats is a little more
    assert judge(METRICS, GATE, {"accuracy": 0.7}).passed
    verdict = judge(METRICS, GATE, {"accuracy": 0.875})
    assert _failed(verdict) == {"max_loss_to_champion"}
    assert verdict.sentence == (
        "refused: accuracy lost to the champion 0.02 is 0.015 above its maximum of 0.005 (gate.max_loss_to_champion)"
    )


@pytest.mark.parametrize("champion", [{}, {"accuracy": None}, {"accuracy": math.nan}, {"accuracy": "0.8"}])
def test_a_champion_without_a_score_fails_the_candidate(champion: dict[str, Any]) -> None:
    assert _failed(judge(METRICS, GATE, champion)) == {"max_loss_to_champion"}


def test_a_champion_that_cannot_be_compared_fails_with_its_sentence() -> None:
    verdict = judge(METRICS, GATE, {"problem": "its labels differ"})
    assert verdict.sentence == "refused: the champion cannot be compared: its labels differ"
    assert judge(METRICS, GATE.model_copy(update={"max_loss_to_champion": None}), {"problem": "x"}).passed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("models", "int8", "accuracy", 0.781), "accuracy 0.781 is 0.019 below its minimum of 0.8 (gate.min_accuracy)"),
        (
            ("models", "int8", "megabytes", 21.5),
            "model file 21.5 MB is 1.5 MB above its maximum of 20 MB (gate.max_file_mb)",
        ),
        (("models", "int8", "ece", math.nan), "calibration error is nan, which fails gate.max_ece"),
    ],
)
def test_the_sentences(change: tuple[Any, ...], sentence: str) -> None:
    verdict: Callable[[], Verdict] = lambda: judge(_changed(change[:-1], change[-1]), GATE, None)  # noqa: E731
    assert verdict().sentence == f"refused: {sentence}"


@pytest.mark.parametrize("control", ["pretrained", "initialised"])
def test_a_control_that_has_to_be_beaten(control: str) -> None:
    def verdict(**found: Any) -> Verdict:
        proof = {"verdicts": {control: found}} if found else {}
        return judge({**METRICS, "proof": proof}, OFF.model_copy(update={"must_beat": [control]}), None)

    numbers = {"difference": 0.011, "low": 0.004, "high": 0.018}
    assert verdict(outcome="BEATS", **numbers).passed
    level = verdict(outcome="NO DIFFERENCE", **{**numbers, "low": -0.004})
    assert level.sentence == (
        f"refused: gain over the {control} control 0.011 (-0.004 to 0.018) is not above 0 beyond noise (gate.must_beat)"
    )
    for broken in ({}, {"outcome": "BEATS", **numbers, "low": math.nan}, {"outcome": "BEATS"}):
        assert _failed(verdict(**broken)) == {"must_beat"}
    for said in ("LOSES", "NO DIFFERENCE", None):  # a word that its numbers do not bear out is no pass either way
        assert not verdict(outcome=said, **numbers).passed
    assert not verdict(outcome="BEATS", **{**numbers, "low": 0.0}).passed
