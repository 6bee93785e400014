"""The forms in which the teacher could be served itself, and whether the student is worth more than these.

A user who has the teacher can quantize it, which needs no distillation. That is what a student has to be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.config.promotion_params import Gate
from potstill.evaluation.gate_checks import ROUNDING, Check, count, failed, finite, mapping, number
from potstill.evaluation.naming import QUANTIZED, TITLES
from potstill.kinds.definitions.task_kinds import kind_in
from potstill.scores.scoring import Scoring

_NAME = "min_advantage"
_OUTCOMES = {"BEATS": "beats", "LOSES": "loses to", "NO DIFFERENCE": "cannot be told apart from"}


def add_advantages(metrics: dict[str, Any], candidate: str) -> None:
    """Add how many times faster and smaller the candidate is to `comparison`, from the numbers of the models.

    `speedup` is against the fastest form of the teacher.
    """
    models, comparison = metrics["models"], metrics["comparison"]
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
    about = mapping(metrics.get("quantized_teacher"))
    if "absent" in about:
        return f"No {TITLES[QUANTIZED]}: {about['absent']}"
    if about.get("members", 1) == 1:
        return None
    number_of = f"teacher {about['member'] + 1} of {about['members']}"
    return f"{TITLES[QUANTIZED]}: {number_of} alone, the best on dev of those that answer every label"


def quantized_sentence(metrics: Mapping[str, Any], candidate: str) -> str | None:
    """Compare the candidate with the quantized teacher in a sentence; None without one."""
    comparison = mapping(mapping(metrics.get("comparison")).get(QUANTIZED))
    models = mapping(metrics.get("models"))
    if not comparison or QUANTIZED not in models:
        return None
    scoring = kind_in(metrics).scoring
    scores = [f"{100 * models[name][scoring.key]:.1f}%" for name in (candidate, QUANTIZED)]
    points = [f"{100 * comparison[part]:+.1f}" for part in ("difference", "low", "high")]
    words = f"{TITLES[candidate]} {_OUTCOMES[comparison['outcome']]} the quantized teacher: {scores[0]} against "
    words += f"{scores[1]}, {points[0]} points of {scoring.words} ({points[1]} to {points[2]})"
    return f"{words}, {_advantages(comparison)}" if "speedup" in comparison else words


def quantized_in_words(metrics: Mapping[str, Any]) -> str:
    """Return the comparison for a verdict; empty where metrics.json has none.

    Such as `LOSES to the quantized teacher (-2.1 to -0.4 points), 1.47x its texts/s, 1.34x smaller`.
    """
    comparison = mapping(mapping(metrics.get("comparison")).get(QUANTIZED))
    low, high = finite(comparison.get("low")), finite(comparison.get("high"))
    outcome, speedup, smaller = comparison.get("outcome"), comparison.get("speedup"), comparison.get("smaller")
    if not isinstance(outcome, str) or None in (low, high, finite(speedup), finite(smaller)):
        return ""
    to = "" if outcome == "BEATS" else " to"
    return f"{outcome}{to} the quantized teacher ({_interval(comparison)} points), {_advantages(comparison)}"


def check_advantage(metrics: Mapping[str, Any], gate: Gate, scoring: Scoring) -> Check | None:
    """Check that the student is worth more than the quantized teacher; None where params do not ask.

    It is where its score is better beyond noise, or where it is enough times faster or smaller.
    """
    bound = gate.min_advantage
    if bound is None:
        return None
    absent = mapping(metrics.get("quantized_teacher")).get("absent")
    if isinstance(absent, str):
        return Check(_NAME, None, bound, True, f"there is no quantized teacher to compare with: {absent}")
    comparison = mapping(mapping(metrics.get("comparison")).get(QUANTIZED))
    low, high, difference, speedup, smaller = (
        finite(comparison.get(part)) for part in ("low", "high", "difference", "speedup", "smaller")
    )
    if low is None or high is None or difference is None or speedup is None or smaller is None:
        return failed(_NAME, f"the comparison with the quantized teacher is missing, which fails gate.{_NAME}")
    advantage, rows = max(speedup, smaller), count(metrics.get("rows"))
    shown = f"{number(difference)} of {scoring.words} ({number(low)} to {number(high)}), {_advantages(comparison)}"
    if low > 0:
        words = f"its score is above the quantized teacher's beyond noise: {shown}"
        return Check(_NAME, advantage, bound, True, words, low, high, rows)
    if advantage >= bound - ROUNDING:
        words = f"next to the quantized teacher: {shown}; {number(advantage)}x meets its minimum of {number(bound)}x"
        return Check(_NAME, advantage, bound, True, words, low, high, rows)
    loss = "not worth its loss" if high < 0 else "not worth its training"
    words = (
        f"{loss} next to the quantized teacher: {shown}, and neither is {number(bound)}x (gate.{_NAME}); serve the "
        "quantized teacher, or make the student smaller"
    )
    return Check(_NAME, advantage, bound, False, words, low, high, rows)


def _interval(comparison: Mapping[str, Any]) -> str:
    return f"{100 * comparison['low']:+.1f} to {100 * comparison['high']:+.1f}"


def _advantages(comparison: Mapping[str, Any]) -> str:
    return f"{comparison['speedup']:.2f}x its texts/s, {comparison['smaller']:.2f}x smaller"
