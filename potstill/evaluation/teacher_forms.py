"""The forms in which the teacher could be served itself, and whether the student is worth more than these.

A user who has the teacher can quantize it, which needs no distillation. That is what a student has to be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.config.promotion_params import Gate
from potstill.evaluation.gate_checks import ROUNDING, Check, failed, number
from potstill.evaluation.metrics_reading import (
    OUTCOMES,
    count,
    finite,
    mapping,
    read_difference,
    signed_interval,
    signed_points,
)
from potstill.evaluation.naming import QUANTIZED, TITLES
from potstill.kinds.definitions.task_kinds import kind_in
from potstill.scores.scoring import Scoring

_NAME = "min_advantage"


def add_advantages(metrics: dict[str, Any], candidate: str) -> None:
    """Add how many times faster and smaller the candidate is to `comparison`, from the numbers of the models.

    `speedup` is against the fastest form of the teacher.
    """
    models = metrics["models"]
    comparison = metrics["comparison"]
    speed = models[candidate]["texts_per_second"]
    rates = {name: models[name]["texts_per_second"] for name in ("teacher", QUANTIZED) if name in models}
    comparison["speedup"] = speed / max(rates.values())
    comparison["speedup_over_teacher"] = speed / rates["teacher"]
    if QUANTIZED in models:
        smaller = models[QUANTIZED]["megabytes"] / models[candidate]["megabytes"]
        comparison[QUANTIZED] |= {"speedup": speed / rates[QUANTIZED], "smaller": smaller}


def fastest_form(metrics: Mapping[str, Any]) -> str:
    """Return the name of the teacher's fastest form, among those that were timed."""
    models = metrics["models"]
    forms = [name for name in ("teacher", QUANTIZED) if name in models]
    return max(forms, key=lambda name: models[name].get("texts_per_second", 0.0))


def quantized_note(metrics: Mapping[str, Any]) -> str | None:
    """Say which teacher was quantized, or why none was; None for a teacher of one model, and for older numbers."""
    quantized = mapping(metrics.get("quantized_teacher"))
    if "absent" in quantized:
        return f"No {TITLES[QUANTIZED]}: {quantized['absent']}"
    if quantized.get("members", 1) == 1:
        return None
    position = f"teacher {quantized['member'] + 1} of {quantized['members']}"
    return f"{TITLES[QUANTIZED]}: {position} alone, the best on dev of those that answer every label"


def quantized_sentence(metrics: Mapping[str, Any], candidate: str) -> str | None:
    """Compare the candidate with the quantized teacher in a sentence; None without one."""
    comparison = mapping(mapping(metrics.get("comparison")).get(QUANTIZED))
    models = mapping(metrics.get("models"))
    if not comparison or QUANTIZED not in models:
        return None
    scoring = kind_in(metrics).scoring
    scores = [f"{100 * models[name][scoring.key]:.1f}%" for name in (candidate, QUANTIZED)]
    points = f"{signed_points(comparison['difference'])} points of {scoring.words} ({_interval(comparison)})"
    sentence = (
        f"{TITLES[candidate]} {OUTCOMES[comparison['outcome']]} the quantized teacher: {scores[0]} against "
        f"{scores[1]}, {points}"
    )
    return f"{sentence}, {_advantages(comparison)}" if "speedup" in comparison else sentence


def quantized_in_words(metrics: Mapping[str, Any]) -> str:
    """Return the comparison for a verdict; empty where metrics.json has none.

    Such as `LOSES to the quantized teacher (-2.1 to -0.4 points), 1.47x its texts/s, 1.34x smaller`.
    """
    comparison = mapping(mapping(metrics.get("comparison")).get(QUANTIZED))
    outcome = comparison.get("outcome")
    numbers = [finite(comparison.get(key)) for key in ("low", "high", "speedup", "smaller")]
    if not isinstance(outcome, str) or None in numbers:
        return ""
    to = "" if outcome == "BEATS" else " to"
    return f"{outcome}{to} the quantized teacher ({_interval(comparison)} points), {_advantages(comparison)}"


def check_advantage(metrics: Mapping[str, Any], gate: Gate, scoring: Scoring) -> Check | None:
    """Check that the student is worth more than the quantized teacher; None where params do not ask.

    It is worth more if its score is better beyond noise, or if it is enough times faster or smaller.
    """
    bound = gate.min_advantage
    if bound is None:
        return None
    absent = mapping(metrics.get("quantized_teacher")).get("absent")
    if isinstance(absent, str):
        return Check(_NAME, None, bound, True, f"there is no quantized teacher to compare with: {absent}")
    comparison = mapping(mapping(metrics.get("comparison")).get(QUANTIZED))
    numbers = read_difference(comparison)
    speedup = finite(comparison.get("speedup"))
    smaller = finite(comparison.get("smaller"))
    if numbers is None or speedup is None or smaller is None:
        return failed(_NAME, f"the comparison with the quantized teacher is missing, which fails gate.{_NAME}")
    difference, low, high = numbers
    advantage = max(speedup, smaller)
    rows = count(metrics.get("rows"))
    measured = f"{number(difference)} of {scoring.words} ({number(low)} to {number(high)}), {_advantages(comparison)}"
    if low > 0:
        words = f"its score is above the quantized teacher's beyond noise: {measured}"
        return Check(_NAME, advantage, bound, True, words, low, high, rows)
    if advantage >= bound - ROUNDING:
        words = f"next to the quantized teacher: {measured}; {number(advantage)}x meets its minimum of {number(bound)}x"
        return Check(_NAME, advantage, bound, True, words, low, high, rows)
    loss = "not worth its loss" if high < 0 else "not worth its training"
    words = (
        f"{loss} next to the quantized teacher: {measured}, and neither is {number(bound)}x (gate.{_NAME}); serve the "
        "quantized teacher, or make the student smaller"
    )
    return Check(_NAME, advantage, bound, False, words, low, high, rows)


def _interval(comparison: Mapping[str, Any]) -> str:
    return signed_interval(comparison["low"], comparison["high"])


def _advantages(comparison: Mapping[str, Any]) -> str:
    return f"{comparison['speedup']:.2f}x its texts/s, {comparison['smaller']:.2f}x smaller"
