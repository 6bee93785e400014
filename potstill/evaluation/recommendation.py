"""What a reviewer should do with a candidate, in one sentence, and what to look at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from potstill.evaluation.baseline import baseline_sentence, beats_baseline
from potstill.evaluation.metrics_reading import (
    OUTCOMES,
    finite,
    judged_slices,
    mapping,
    percent_interval,
    read_difference,
    signed_interval,
    signed_points,
    slice_losses,
    with_bounds,
)
from potstill.evaluation.naming import PROVEN, TITLES, candidate_of
from potstill.kinds.definitions.task_kinds import kind_in


@dataclass(frozen=True)
class Recommendation:
    """Advice about a candidate.

    Attributes:
        call: what to do.
        summary: why, in one sentence with intervals, without a full stop.
        cautions: what speaks against a candidate that the gate passed, a sentence each.
    """

    call: str
    summary: str
    cautions: list[str]


def recommend(metrics: Mapping[str, Any], passed: bool | None, champion: Mapping[str, Any] | None) -> Recommendation:
    """Advise what to do with a candidate, by the gate's verdict and by what the gate does not judge.

    Args:
        metrics: the content of reports/metrics.json. It may be anything; what does not fit is left out.
        passed: whether the gate passed the candidate; None where it has not judged yet.
        champion: as `gates.judge` receives it, with its `version` and, where it was compared, `comparison`.
    """
    cautions = list(_cautions(metrics, mapping(champion)))
    if passed is None:
        call = "Not judged yet"
    elif passed:
        call = _call_to_promote(mapping(champion), cautions)
    else:
        call = "Do not promote"
    return Recommendation(call, _summary(metrics, passed is not None, champion), cautions)


def _call_to_promote(champion: Mapping[str, Any], cautions: list[str]) -> str:
    """Say what to do with a candidate that the gate passed; its relation to the champion weighs most."""
    outcome = mapping(champion.get("comparison")).get("outcome")
    if outcome == "LOSES":
        return "Keep the champion"
    if any(rival == "champion" for _, rival, _ in slice_losses(champion.get("slices"))):
        return "Promote only if the lost slices do not matter"
    if outcome == "NO DIFFERENCE":
        return "No better than the champion"
    return "Promote with care" if cautions else "Promote"


def _summary(metrics: Mapping[str, Any], judged: bool, champion: Mapping[str, Any] | None) -> str:
    candidate = candidate_of(metrics) or ""
    scoring = kind_in(metrics).scoring
    model = mapping(mapping(metrics.get("models")).get(candidate))
    score, low, high = (finite(model.get(key)) for key in with_bounds(scoring.key))
    if score is None:
        return f"the candidate has no {scoring.words}"
    interval = "" if low is None or high is None else f" ({percent_interval(low, high)})"
    summary = f"{TITLES[candidate]} has {100 * score:.1f}% {scoring.words}{interval}"
    ratio = finite(mapping(metrics.get("comparison")).get("teacher_ratio"))
    if ratio is not None:
        summary += f", {100 * ratio:.1f}% of the teacher's"
    return f"{summary}; {_against_champion(champion)}" if judged else summary


def _against_champion(champion: Mapping[str, Any] | None) -> str:
    if champion is None:
        return "there is no champion yet"
    version = champion.get("version")
    name = f"the champion, version {version}" if version else "the champion"
    numbers = _points(mapping(champion.get("comparison")))
    if numbers is None:
        return f"{name}, was not compared with it" if version else f"{name} was not compared with it"
    words = OUTCOMES.get(champion["comparison"].get("outcome"), OUTCOMES["BEATS"])
    return f"it {words} {name} ({numbers})"


def _points(comparison: Mapping[str, Any]) -> str | None:
    numbers = read_difference(comparison)
    if numbers is None:
        return None
    difference, low, high = numbers
    return f"{signed_points(difference)} points, {signed_interval(low, high)}"


def _cautions(metrics: Mapping[str, Any], champion: Mapping[str, Any]) -> Iterator[str]:
    if mapping(champion.get("comparison")).get("outcome") == "LOSES":
        yield f"It loses to the champion beyond noise: {_points(champion['comparison'])}."
    yield from _lost_slices(mapping(champion.get("slices")), "champion")
    yield from _lost_slices(mapping(metrics.get("slices")), "teacher")
    for control, verdict in mapping(mapping(metrics.get("proof")).get("verdicts")).items():
        outcome = mapping(verdict).get("outcome")
        if outcome in ("LOSES", "NO DIFFERENCE"):
            name = PROVEN.get(control, control).lower()
            yield f"It {OUTCOMES[outcome]} the {name} control: {_points(mapping(verdict))}."
    if mapping(metrics.get("models")) and not beats_baseline(metrics):
        yield f"{baseline_sentence(metrics)}."
    yield from _failed_tests(metrics)
    if mapping(mapping(metrics.get("abstention")).get("test")).get("check") == "BROKEN":
        yield "Test contradicts the threshold of abstention."


def _lost_slices(slices: Mapping[str, Any], rival: str) -> Iterator[str]:
    lost = [(part, comparison) for part, name, comparison in slice_losses(slices) if name == rival]
    if lost:
        part, comparison = min(lost, key=lambda item: item[1]["difference"])
        yield (
            f"On {len(lost)} of {len(judged_slices(slices))} slices the {rival} is better beyond noise, most on "
            f"{part.get('name')}: {_points(comparison)}."
        )


def _failed_tests(metrics: Mapping[str, Any]) -> Iterator[str]:
    candidate = candidate_of(metrics) or ""
    for name, test in mapping(mapping(metrics.get("behaviour")).get("tests")).items():
        models = mapping(mapping(test).get("models"))
        rate, teacher_rate = (
            finite(mapping(models.get(model)).get("failure_rate")) for model in (candidate, "teacher")
        )
        gain = mapping(mapping(mapping(test).get("gains")).get("teacher"))
        if gain.get("outcome") == "LOSES" and rate is not None and teacher_rate is not None:
            yield (
                f"It fails the behavioural test {name} more often than the teacher: "
                f"{100 * rate:.1f}% against {100 * teacher_rate:.1f}%."
            )
