"""Checks of slices, behavioural tests, abstention and the champion, which are judged by intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from potstill.config.promotion_params import Gate
from potstill.evaluation.gate_checks import ROUNDING, Check, Limit, check_limit, failed, number
from potstill.evaluation.metrics_reading import count, finite, judged_slices, mapping, with_bounds
from potstill.evaluation.naming import PROVEN
from potstill.scores.scoring import Scoring

# Name of a rival in `gate.slice_rivals` -> its name in metrics.json.
_RIVALS = {"teacher": "teacher", "pretrained": "control", "initialised": "initialised", "champion": "champion"}


def evidence_checks(
    metrics: Mapping[str, Any], gate: Gate, champion: Mapping[str, Any] | None, candidate: str, scoring: Scoring
) -> Iterator[Check]:
    """Check the limits on slices, behavioural tests and coverage that params name.

    Args:
        metrics: the content of reports/metrics.json.
        gate: the limits.
        champion: as `gates.judge` receives it.
        candidate: name of the model that ships.
        scoring: the task's score.
    """
    slices = mapping(metrics.get("slices"))
    if gate.min_slice_score is not None:
        yield _worst_score(slices, gate.min_slice_score, scoring)
    if gate.max_slice_loss is not None:
        for rival in gate.slice_rivals:
            yield _worst_loss(slices, champion, rival, gate.max_slice_loss, scoring)
    tests = mapping(mapping(metrics.get("behaviour")).get("tests"))
    for name, bound in gate.max_behaviour_failure.items():
        yield _failure_rate(name, mapping(mapping(mapping(tests.get(name)).get("models")).get(candidate)), bound)
    if gate.min_coverage is not None:
        yield _coverage(mapping(metrics.get("abstention")), gate.min_coverage)


# --- slices -----------------------------------------------------------------------------------------------------------


def _worst_score(slices: Mapping[str, Any], bound: float, scoring: Scoring) -> Check:
    """Check the lowest score on a slice."""
    name = "min_slice_score"
    parts = judged_slices(slices)
    if not parts:
        return failed(name, f"no slice has a score in metrics.json, which fails gate.{name}")
    worst = min(parts, key=lambda part: _or_lowest(part.get("score")))
    words = f"{scoring.words} on the slice {worst.get('name')}"
    limit = Limit(words, worst.get("score"), "", worst.get("low"), worst.get("high"), worst.get("rows"))
    return check_limit(name, limit, bound)


def _or_lowest(score: Any) -> float:
    """Return a finite score; anything else is the worst, so that it is what fails."""
    value = finite(score)
    return -math.inf if value is None else value


def _worst_loss(
    slices: Mapping[str, Any], champion: Mapping[str, Any] | None, rival: str, bound: float, scoring: Scoring
) -> Check:
    """Check the largest loss among the slices on which a rival is better, with the false-discovery rate held."""
    name = "max_slice_loss"
    words = PROVEN.get(rival, rival).lower()
    if rival == "champion":
        if champion is None:
            return Check(name, None, bound, True, "there is no champion yet, with which slices could be compared")
        if champion.get("problem") is not None:
            return failed(name, f"the champion cannot be compared: {champion['problem']}")
        slices = mapping(champion.get("slices"))
    rate = finite(slices.get("false_discovery_rate"))
    compared = [(part, mapping(mapping(part.get("rivals")).get(_RIVALS[rival]))) for part in judged_slices(slices)]
    numbers = [
        (finite(comparison.get("difference")), finite(comparison.get("adjusted_p_value"))) for _, comparison in compared
    ]
    if rate is None or not compared or any(None in pair for pair in numbers):
        return failed(name, f"slices are not compared with the {words}, which fails gate.{name}")
    worse = [
        (-difference, part, comparison)
        for (difference, p_value), (part, comparison) in zip(numbers, compared, strict=True)
        if difference is not None and p_value is not None and difference < 0 and p_value <= rate
    ]
    if not worse:
        return Check(name, 0.0, bound, True, f"on none of {len(compared)} slices the {words} is better beyond noise")
    loss, part, comparison = max(worse, key=lambda item: item[0])
    sentence = f"{scoring.words} lost to the {words} on the slice {part.get('name')}"
    low, high = _loss_interval(comparison)
    return check_limit(name, Limit(sentence, loss, "", low, high, part.get("rows")), bound)


def _loss_interval(comparison: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the interval of the loss, of a comparison that holds the gain."""
    low = finite(comparison.get("low"))
    high = finite(comparison.get("high"))
    return None if high is None else -high, None if low is None else -low


# --- behaviour and coverage -------------------------------------------------------------------------------------------


def _failure_rate(test: str, failures: Mapping[str, Any], bound: float) -> Check:
    """Check the upper bound of the failure rate of one behavioural test."""
    _, low, high = (failures.get(key) for key in with_bounds("failure_rate"))
    words = f"upper bound of the failure rate of {test}"
    return check_limit("max_behaviour_failure", Limit(words, high, "", low, high, failures.get("rows")), bound)


def _coverage(abstention: Mapping[str, Any], bound: float) -> Check:
    """Check the share of the texts that are answered from the threshold on, which test must not contradict."""
    name = "min_coverage"
    test = mapping(abstention.get("test"))
    if test.get("check") == "BROKEN":
        return failed(name, f"test contradicts the threshold of abstention, which fails gate.{name}")
    return check_limit(name, Limit("coverage", test.get("coverage"), rows=test.get("rows")), bound)


# --- the champion -----------------------------------------------------------------------------------------------------


def check_champion(candidate: Mapping[str, Any], champion: Mapping[str, Any], gate: Gate, scoring: Scoring) -> Check:
    """Check the loss to the champion, by points or by the paired interval on the same rows.

    Args:
        candidate: its numbers in metrics.json.
        champion: its score, and `comparison`: the candidate's score minus its score; or a `problem`.
        gate: `max_loss_to_champion`, the margin, and `champion_test`.
        scoring: the task's score.
    """
    name = "max_loss_to_champion"
    margin = gate.max_loss_to_champion
    assert margin is not None
    if champion.get("problem") is not None:
        return failed(name, f"the champion cannot be compared: {champion['problem']}")
    comparison = mapping(champion.get("comparison"))
    if gate.champion_test == "superiority":
        return _check_superiority(comparison, scoring)
    low, high = _loss_interval(comparison)
    rows = comparison.get("rows")
    bounds = {"inferiority": ("lower", low), "non_inferiority": ("upper", high)}
    if gate.champion_test in bounds:
        end, bound = bounds[gate.champion_test]
        words = f"{end} bound of the {scoring.words} lost to the champion"
        return check_limit(name, Limit(words, bound, "", low, high, rows), margin)
    candidate_score = finite(candidate.get(scoring.key))
    champion_score = finite(champion.get(scoring.key))
    if candidate_score is None or champion_score is None:
        model = "candidate" if candidate_score is None else "champion"
        return failed(
            name, f"the {model}'s {scoring.words} is missing or not finite, so the loss to the champion is unknown"
        )
    words = f"{scoring.words} lost to the champion"
    return check_limit(name, Limit(words, champion_score - candidate_score, "", low, high, rows), margin)


def _check_superiority(comparison: Mapping[str, Any], scoring: Scoring) -> Check:
    """Check that the whole interval of the gain over the champion is above 0."""
    name = "max_loss_to_champion"
    low = finite(comparison.get("low"))
    high = finite(comparison.get("high"))
    rows = count(comparison.get("rows"))
    if low is None or high is None:
        return failed(name, f"the gain over the champion has no interval, which fails gate.{name}")
    gain = f"{scoring.words} gained over the champion ({number(low)} to {number(high)})"
    if low > ROUNDING:
        return Check(name, low, 0.0, True, f"{gain} is above 0", low, high, rows)
    sentence = f"{gain} is not above 0 beyond noise (gate.champion_test)"
    return Check(name, low, 0.0, False, sentence, low, high, rows)
