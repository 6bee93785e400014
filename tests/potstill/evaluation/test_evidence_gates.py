"""Gates that judge slices, behaviour, coverage and the champion by intervals."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from potstill.artifacts import canonical_json
from potstill.config.promotion_params import Gate
from potstill.evaluation.gate_checks import Check
from potstill.evaluation.gates import Verdict, judge
from potstill.scores.statistics import paired_bootstrap
from tests.potstill.evaluation import test_gates

OFF = test_gates.OFF


def _part(name: str, score: float, difference: float, p_value: float) -> dict[str, Any]:
    rival = {"difference": difference, "low": difference - 0.02, "high": difference + 0.02}
    rivals = {key: rival | {"adjusted_p_value": p_value} for key in ("teacher", "control", "initialised", "champion")}
    return {"name": name, "rows": 300, "score": score, "low": score - 0.03, "high": score + 0.03, "rivals": rivals}


SLICES = {"false_discovery_rate": 0.05, "slices": [_part("short", 0.9, 0.01, 0.5), _part("long", 0.8, -0.04, 0.001)]}
METRICS: dict[str, Any] = {
    **test_gates.METRICS,
    "slices": SLICES,
    "behaviour": {
        "tests": {
            "case_lower": {
                "models": {
                    "int8": {"rows": 100, "failure_rate": 0.05, "failure_rate_low": 0.02, "failure_rate_high": 0.11}
                }
            }
        }
    },
    "abstention": {"test": {"check": "CONFIRMED", "coverage": 0.7, "rows": 2000}},
}
CHAMPION: dict[str, Any] = {
    "accuracy": 0.857,
    "comparison": {"difference": -0.002, "low": -0.004, "high": 0.001, "rows": 2000},
    "slices": SLICES,
}
LIMITS: dict[str, Any] = {
    "min_slice_score": 0.75,
    "max_slice_loss": 0.05,
    "max_behaviour_failure": {"case_lower": 0.2},
    "min_coverage": 0.5,
}
GATE = OFF.model_copy(update={**LIMITS, "slice_rivals": ["teacher", "champion"]})
NON_INFERIORITY = OFF.model_copy(update={"max_loss_to_champion": 0.005, "champion_test": "non_inferiority"})
INFERIORITY = NON_INFERIORITY.model_copy(update={"champion_test": "inferiority"})
SUPERIORITY = NON_INFERIORITY.model_copy(update={"champion_test": "superiority"})
# Where each judged number lies, and in which direction it is better.
PLACES: dict[tuple[Any, ...], int] = {
    ("slices", "slices", 1, "score"): 1,
    ("slices", "slices", 1, "rivals", "teacher", "difference"): 1,
    ("slices", "slices", 0, "rivals", "teacher", "adjusted_p_value"): 1,
    ("behaviour", "tests", "case_lower", "models", "int8", "failure_rate_high"): -1,
    ("abstention", "test", "coverage"): 1,
    ("models", "int8", "accuracy"): 1,
}


def _changed(values: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    inner: Any = changed
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    return changed


def _check(verdict: Verdict, name: str) -> Check:
    return next(check for check in verdict.checks if check.name == name)


def test_a_good_candidate_passes_and_each_check_has_value_interval_rows_limit_and_reason() -> None:
    verdict = judge(METRICS, GATE, CHAMPION)
    assert verdict.passed, verdict.sentence
    rate = _check(verdict, "max_behaviour_failure")
    assert (rate.value, rate.low, rate.high, rate.rows, rate.limit) == (0.11, 0.02, 0.11, 100, 0.2)
    assert rate.sentence == "upper bound of the failure rate of case_lower 0.11 meets its maximum of 0.2"
    score = _check(verdict, "min_slice_score")
    assert (score.value, score.rows) == (0.8, 300)
    loss = _check(verdict, "max_slice_loss")
    assert (loss.value, loss.low, loss.high) == (0.04, pytest.approx(0.02), pytest.approx(0.06))
    json.loads(canonical_json(verdict.to_json()))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"min_slice_score": 0.85}, "accuracy on the slice long 0.8 is 0.05 below its minimum of 0.85"),
        ({"max_slice_loss": 0.0}, "accuracy lost to the teacher on the slice long 0.04 is 0.04 above its maximum of 0"),
        ({"max_behaviour_failure": {"case_lower": 0.1}}, "failure rate of case_lower 0.11 is 0.01 above its maximum"),
        ({"max_behaviour_failure": {"names": 0.1}}, "upper bound of the failure rate of names is missing"),
        ({"min_coverage": 0.8}, "coverage 0.7 is 0.1 below its minimum of 0.8"),
    ],
)
def test_each_limit_refuses_with_its_reason(change: dict[str, Any], sentence: str) -> None:
    verdict = judge(METRICS, GATE.model_copy(update=change), CHAMPION)
    assert not verdict.passed
    assert sentence in verdict.sentence


def test_a_loss_that_may_be_noise_is_no_loss() -> None:
    strict = GATE.model_copy(update={"max_slice_loss": 0.0})
    for rivals in (["teacher"], ["champion"]):
        gate = strict.model_copy(update={"slice_rivals": rivals})
        noise = {**SLICES, "slices": [_part("short", 0.9, 0.01, 0.5), _part("long", 0.8, -0.04, 0.06)]}
        verdict = judge({**METRICS, "slices": noise}, gate, {**CHAMPION, "slices": noise})
        assert verdict.passed
        assert f"on none of 2 slices the {rivals[0]} is better beyond noise" in verdict.checks[-1].sentence + str(
            [check.sentence for check in verdict.checks]
        )


def test_without_a_champion_the_other_gates_judge() -> None:
    verdict = judge(METRICS, GATE, None)
    assert verdict.passed
    assert "there is no champion yet, with which slices could be compared" in [
        check.sentence for check in verdict.checks
    ]


def test_a_threshold_that_test_contradicts_is_no_coverage() -> None:
    verdict = judge(_changed(METRICS, ("abstention", "test", "check"), "BROKEN"), GATE, CHAMPION)
    assert verdict.sentence == "refused: test contradicts the threshold of abstention, which fails gate.min_coverage"
    assert not judge({**METRICS, "abstention": {"test": None}}, GATE, CHAMPION).passed


rubbish = some.one_of(
    some.none(), some.sampled_from([math.nan, math.inf, -math.inf]), some.text(max_size=3), some.booleans()
)


@given(place=some.sampled_from(sorted(PLACES, key=str)), value=rubbish)
def test_what_is_no_finite_number_fails(place: tuple[Any, ...], value: Any) -> None:
    verdict = judge(_changed(METRICS, place, value), GATE, CHAMPION)
    assert not verdict.passed
    json.loads(canonical_json(verdict.to_json()))


@pytest.mark.parametrize("section", ["slices", "behaviour", "abstention"])
@given(value=test_gates.json_values)
def test_no_shape_of_a_section_passes_by_accident_or_raises(section: str, value: Any) -> None:
    assert not judge({**METRICS, section: value}, GATE, CHAMPION).passed


@given(value=test_gates.json_values)
def test_no_shape_of_the_champion_passes_by_accident_or_raises(value: Any) -> None:
    for key, gate in (
        ("slices", GATE),
        *(("comparison", gate) for gate in (INFERIORITY, NON_INFERIORITY, SUPERIORITY)),
    ):
        assert not judge(METRICS, gate, {**CHAMPION, key: value}).passed


@given(
    place=some.sampled_from(sorted(PLACES, key=str)),
    value=some.floats(-1, 1),
    raised=some.floats(0, 2),
)
def test_raising_a_metric_never_turns_pass_into_fail(place: tuple[Any, ...], value: float, raised: float) -> None:
    gate = GATE.model_copy(update={"min_accuracy": 0.5, "max_loss_to_champion": 0.005})
    before = judge(_changed(METRICS, place, value), gate, CHAMPION)
    after = judge(_changed(METRICS, place, value + PLACES[place] * raised), gate, CHAMPION)
    assert after.passed >= before.passed


@given(low=some.floats(-1, 1), raised=some.floats(0, 2))
def test_a_higher_interval_never_turns_pass_into_fail_against_the_champion(low: float, raised: float) -> None:
    for gate in (INFERIORITY, NON_INFERIORITY, SUPERIORITY):
        before, after = (
            judge(METRICS, gate, {**CHAMPION, "comparison": {"low": end, "high": end + 0.1}}).passed
            for end in (low, low + raised)
        )
        assert after >= before


@given(place=some.sampled_from(sorted(test_gates.PLACES)), raised=some.floats(0, 100))
def test_raising_a_number_of_the_table_never_turns_pass_into_fail(place: str, raised: float) -> None:
    bound = getattr(test_gates.GATE, place)
    sign = 1 if place.startswith("min") else -1
    metrics = _changed(test_gates.METRICS, test_gates.PLACES[place], bound + sign * raised)
    assert judge(metrics, test_gates.GATE, None).passed


def test_the_champion_is_compared_by_points_or_by_the_interval() -> None:
    points = OFF.model_copy(update={"max_loss_to_champion": 0.005})
    assert judge(METRICS, points, CHAMPION).passed
    assert _check(judge(METRICS, NON_INFERIORITY, CHAMPION), "max_loss_to_champion").value == 0.004
    wide = {**CHAMPION, "comparison": {"difference": -0.002, "low": -0.012, "high": 0.008, "rows": 2000}}
    assert judge(METRICS, points, wide).passed
    assert judge(METRICS, NON_INFERIORITY, wide).sentence == (
        "refused: upper bound of the accuracy lost to the champion 0.012 is 0.007 above its maximum of 0.005 "
        "(gate.max_loss_to_champion)"
    )
    assert judge(METRICS, INFERIORITY, wide).passed
    worse = {**CHAMPION, "comparison": {"difference": -0.02, "low": -0.03, "high": -0.01, "rows": 2000}}
    assert judge(METRICS, INFERIORITY, worse).sentence == (
        "refused: lower bound of the accuracy lost to the champion 0.01 is 0.005 above its maximum of 0.005 "
        "(gate.max_loss_to_champion)"
    )
    assert judge(METRICS, SUPERIORITY, CHAMPION).sentence == (
        "refused: accuracy gained over the champion (-0.004 to 0.001) is not above 0 beyond noise (gate.champion_test)"
    )
    better = {**CHAMPION, "comparison": {"low": 0.002, "high": 0.02}}
    assert judge(METRICS, SUPERIORITY, better).passed
    assert judge(METRICS, SUPERIORITY, {"problem": "its labels differ"}).sentence.endswith("its labels differ")


TRIALS = 1000
# Refuses any loss that is beyond noise.
STRICT = INFERIORITY.model_copy(update={"max_loss_to_champion": 0.0})


def _verdicts(discordant: float) -> dict[str, int]:
    """Judge a model as good as its champion, which differs from it on a share of the rows, on 1,000 drawn test sets."""
    random, counts = np.random.default_rng(17), {"inferior": 0, "superior": 0}
    rows, labels = 2000, np.zeros(2000, dtype=np.int64)
    for _ in range(TRIALS):
        draw = random.random(rows)
        right = (draw > discordant).astype(np.int64) * (draw < 0.86)
        ours, theirs = right + (draw < discordant / 2), right + ((draw >= discordant / 2) & (draw < discordant))
        compared = paired_bootstrap(labels, 1 - ours, 1 - theirs, replicates=500, confidence=0.95, seed=17)
        champion = {"accuracy": float(theirs.mean()), "comparison": compared.to_json()}
        metrics = _changed(METRICS, ("models", "int8", "accuracy"), float(ours.mean()))
        counts["superior"] += judge(metrics, SUPERIORITY, champion).passed
        counts["inferior"] += not judge(metrics, STRICT, champion).passed
        if discordant == 0:
            assert judge(metrics, NON_INFERIORITY, champion).passed
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("discordant", [0.0, 0.06])
def test_noise_makes_no_equal_model_superior_or_inferior(discordant: float) -> None:
    counts = _verdicts(discordant)
    assert counts["superior"] <= 0.05 * TRIALS
    assert counts["inferior"] <= 0.05 * TRIALS


@pytest.mark.parametrize("section", [{"max_behaviour_failure": {"names": 1.2}}, {"min_coverage": 2.0}])
def test_limits_out_of_range_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Gate(**section)
