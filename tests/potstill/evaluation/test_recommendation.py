from __future__ import annotations

from typing import Any

import pytest

from potstill.evaluation.recommendation import recommend


def _compared(outcome: str, difference: float) -> dict[str, Any]:
    return {"outcome": outcome, "difference": difference, "low": difference - 0.01, "high": difference + 0.01}


def _metrics(**more: Any) -> dict[str, Any]:
    return {
        "shipped": "int8",
        "task": "single_label",
        "models": {"int8": {"accuracy": 0.867, "accuracy_low": 0.85, "accuracy_high": 0.881}},
        "comparison": {"teacher_ratio": 0.973},
        "proof": {"verdicts": {"pretrained": _compared("BEATS", 0.02)}},
        **more,
    }


def test_a_candidate_without_faults_is_promoted() -> None:
    advice = recommend(_metrics(), True, {"version": "3", "comparison": _compared("BEATS", 0.02)})
    assert advice.call == "Promote"
    assert advice.cautions == []
    assert advice.summary == (
        "Student INT8 has 86.7% accuracy (85.0 to 88.1), 97.3% of the teacher's; it beats the champion, version 3"
        " (+2.0 points, +1.0 to +3.0)"
    )


_LOST_SLICE = {"slices": [{"name": "length > 90", "rivals": {"champion": _compared("LOSES", -0.1)}}, {"rivals": {}}]}


@pytest.mark.parametrize(
    ("champion", "call"),
    [
        ({"comparison": _compared("LOSES", -0.03)}, "Keep the champion"),
        ({"comparison": _compared("NO DIFFERENCE", 0.002)}, "No better than the champion"),
        (
            {"comparison": _compared("BEATS", 0.03), "slices": _LOST_SLICE},
            "Promote only if the lost slices do not matter",
        ),
        ({"comparison": _compared("BEATS", 0.03)}, "Promote"),
    ],
)
def test_the_call_depends_on_the_champion(champion: dict[str, Any], call: str) -> None:
    assert recommend(_metrics(), True, {"version": "3", **champion}).call == call
    assert recommend(_metrics(), False, {"version": "3", **champion}).call == "Do not promote"


def test_a_first_candidate_has_no_champion() -> None:
    assert recommend(_metrics(), True, None).summary.endswith("; there is no champion yet")


def test_what_the_gate_lets_pass_is_said() -> None:
    champion = {"version": "3", "comparison": _compared("LOSES", -0.03), "slices": _LOST_SLICE}
    behaviour = {
        "tests": {
            "typos": {
                "models": {"int8": {"failure_rate": 0.25}, "teacher": {"failure_rate": 0.1}},
                "gains": {"teacher": _compared("LOSES", -0.15)},
            }
        }
    }
    metrics = _metrics(
        behaviour=behaviour,
        proof={"verdicts": {"pretrained": _compared("NO DIFFERENCE", 0.0)}},
        abstention={"test": {"check": "BROKEN"}},
    )
    advice = recommend(metrics, True, champion)
    assert advice.cautions == [
        "It loses to the champion beyond noise: -3.0 points, -4.0 to -2.0.",
        "On 1 of 2 slices the champion is better beyond noise, most on length > 90: -10.0 points, -11.0 to -9.0.",
        "It cannot be told apart from the pretrained control: +0.0 points, -1.0 to +1.0.",
        "It fails the behavioural test typos more often than the teacher: 25.0% against 10.0%.",
        "Test contradicts the threshold of abstention.",
    ]


def test_without_a_verdict_there_is_no_call() -> None:
    assert recommend(_metrics(), None, None).call == "Not judged yet"
    metrics = _metrics(abstention={"test": {"check": "BROKEN"}})
    assert recommend(metrics, True, None).call == "Promote with care"


@pytest.mark.parametrize("metrics", [{}, {"models": None, "slices": [], "behaviour": 3}])
def test_numbers_that_are_missing_stop_no_page(metrics: dict[str, Any]) -> None:
    assert recommend(metrics, False, {"problem": "it is gone"}).summary.startswith("the ")
