"""Drift: whether a service's texts and answers are still like those its model was evaluated on, without any label.

A change counts if it is both large (the limits of `watch` in params) and more than chance. The model's accuracy is
estimated from its confidences: `Estimate`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal

from potstill.config.serving_params import Watch
from potstill.data.divergence import critical_ks, critical_psi, ks_of_counts, psi_of_counts
from potstill.inference.profile import Counts, Feature, Moments, Profile, parse_profile
from potstill.inference.window_store import COUNTS, PROFILE, Store

Verdict = Literal["drift", "no drift", "too few texts"]
# A distance, and the value that it stays under by chance.
Measure = tuple[float, float]
# Certainty with which a change is more than chance, over all distributions together (Bonferroni).
CERTAINTY = 0.99
# Level of the intervals of an accuracy.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Finding:
    """The distance of one feature from the profile.

    Attributes:
        feature: its name in the profile.
        psi: population stability index; of several distributions the largest, first of all of those that drift.
        psi_by_chance: the value that this index stays under by chance.
        ks: Kolmogorov-Smirnov distance, chosen alike; None where bins have no order.
        ks_by_chance: the value that this distance stays under by chance.
        drifts: whether one of the two is over its limit and over chance.
    """

    feature: str
    psi: float
    psi_by_chance: float
    ks: float | None
    ks_by_chance: float | None
    drifts: bool


@dataclass(frozen=True)
class Estimate:
    """The accuracy estimated from confidences: their mean, plus accuracy minus mean confidence on the test texts.

    Difference of confidences (Guillory et al. 2021, "Predicting with confidence on unseen distributions"), on
    probabilities whose temperature was fitted on dev (Guo et al. 2017). On the test texts it is the measured accuracy.
    It follows shifts of the texts, but it cannot notice that the right answers to the same texts have changed.

    Attributes:
        accuracy: the estimate.
        low: lower end of its interval by the normal approximation, from the variances of service and test.
        high: upper end.
        tested: the accuracy measured on the test texts.
        drifts: whether the whole interval is below the tolerated accuracy.
    """

    accuracy: float
    low: float
    high: float
    tested: float
    drifts: bool


@dataclass(frozen=True)
class Judgement:
    """The judgement of counts against a profile.

    Attributes:
        verdict: in one of three forms.
        sentence: the verdict in words.
        findings: a finding for each feature.
        estimate: of the accuracy; None where confidences are not calibrated.
    """

    verdict: Verdict
    sentence: str
    findings: list[Finding]
    estimate: Estimate | None


@dataclass(frozen=True)
class Drift:
    """The verdict over some windows, as `reports/drift.json` holds it.

    Attributes:
        verdict: in one of three forms.
        sentence: the verdict in words.
        candidate: sha256 of the model's serving folder manifest.
        texts: texts that the windows count.
        truncated: how many of them were cut.
        windows: how many windows.
        left_out: how many of the newest windows count in another profile's bins.
        damaged: names of files among the newest that are no window.
        start: of the oldest window, in seconds since 1970.
        end: of the newest window.
        findings: a finding for each feature.
        estimate: of the accuracy; None where confidences are not calibrated.
        history: end, texts and PSI of each feature, window by window.
    """

    verdict: Verdict
    sentence: str
    candidate: str
    texts: int
    truncated: int
    windows: int
    left_out: int
    damaged: list[str]
    start: float | None
    end: float | None
    findings: list[Finding]
    estimate: Estimate | None
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class Windows:
    """Windows of one model, oldest first, with the profile whose bins they count in.

    Attributes:
        profile: the profile of the test texts.
        windows: as the service wrote them.
        left_out: how many of the newest windows count in another profile's bins.
        damaged: names of newer files that are no window of counts.
    """

    profile: Profile
    windows: list[dict[str, Any]]
    left_out: int
    damaged: list[str] = field(default_factory=list)


def read_windows(store: Store, newest: int) -> Windows | None:
    """Read the newest windows that a service has written, and no older ones.

    A file that is no window is left out, and the next older one is read in its place.

    Args:
        store: where the service writes.
        newest: how many windows to read.

    Returns:
        The windows; None where no service has written there.

    Raises:
        ModelError: the profile cannot be used.
    """
    profile = stored_profile(store)
    if profile is None:
        return None
    windows: list[dict[str, Any]] = []
    damaged = []
    for name in reversed([name for name in store.names() if name.endswith(COUNTS)]):
        if len(windows) == newest:
            break
        window = _window(store, name, profile)
        if window is None:
            damaged.append(name)
        else:
            windows.append(window)
    comparable = [window for window in reversed(windows) if window["profile"] == profile.sum]
    return Windows(profile, comparable, len(windows) - len(comparable), damaged)


def stored_profile(store: Store) -> Profile | None:
    """Read the profile that a service has written; None where none has written there.

    Raises:
        ModelError: it cannot be used.
    """
    if PROFILE not in store.names():
        return None
    return parse_profile(store.read(PROFILE).encode(), f"{store}/{PROFILE}")


def _window(store: Store, name: str, profile: Profile) -> dict[str, Any] | None:
    """Read one window; None where the file is no window, or does not fit the profile that it names."""
    try:
        window: dict[str, Any] = json.loads(store.read(name))
        if window["format"] != 1 or not isinstance(window["profile"], str):
            return None
        if window["profile"] == profile.sum:
            Counts(profile).merge(window)
            _ = float(window["start"]), float(window["end"]), dict(window["psi"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return window


def pool(served: Windows) -> Counts:
    """Add up all windows."""
    counts = Counts(served.profile)
    for window in served.windows:
        counts.merge(window)
    return counts


def judge(served: Windows, settings: Watch) -> Drift:
    """Judge the windows together."""
    counts = pool(served)
    judgement = judge_counts(counts, served.profile, settings)
    return Drift(
        verdict=judgement.verdict,
        sentence=judgement.sentence,
        candidate=served.profile.candidate,
        texts=counts.texts,
        truncated=counts.truncated,
        windows=len(served.windows),
        left_out=served.left_out,
        damaged=served.damaged,
        start=min((window["start"] for window in served.windows), default=None),
        end=max((window["end"] for window in served.windows), default=None),
        findings=judgement.findings,
        estimate=judgement.estimate,
        history=[{key: window[key] for key in ("end", "texts", "psi")} for window in served.windows],
    )


def judge_counts(counts: Counts, profile: Profile, settings: Watch) -> Judgement:
    """Judge counts in the bins of a profile."""
    certainty = 1 - (1 - CERTAINTY) / sum(len(feature.bins) for feature in profile.features.values())
    findings = [
        _finding(name, feature, [bin_counts.tolist() for bin_counts in counts.bins[name]], settings, certainty)
        for name, feature in profile.features.items()
    ]
    accuracy = estimate(profile, counts.confidence, settings.max_accuracy_drop)
    drifts = any(finding.drifts for finding in findings) or (accuracy is not None and accuracy.drifts)
    verdict: Verdict = "drift" if drifts else "no drift"
    if counts.texts < settings.min_texts:
        verdict = "too few texts"
    return Judgement(verdict, _sentence(verdict, counts.texts, findings, accuracy, settings), findings, accuracy)


def _finding(
    name: str, feature: Feature, counts: Sequence[Sequence[int]], settings: Watch, certainty: float
) -> Finding:
    pairs = [(bins.counts, served) for bins, served in zip(feature.bins, counts, strict=True)]
    pairs = [(tested, served) for tested, served in pairs if sum(tested) and sum(served)]
    indices = [(psi_of_counts(*pair), critical_psi(*pair, certainty)) for pair in pairs]
    distances = [(ks_of_counts(*pair), critical_ks(sum(pair[0]), sum(pair[1]), certainty)) for pair in pairs]
    if feature.names:  # such bins have no order
        distances = []
    psi = _largest(indices, settings.max_psi) or (0.0, 0.0)
    ks = _largest(distances, settings.max_ks)
    return Finding(
        feature=name,
        psi=psi[0],
        psi_by_chance=psi[1],
        ks=None if ks is None else ks[0],
        ks_by_chance=None if ks is None else ks[1],
        drifts=_over(psi, settings.max_psi) or (ks is not None and _over(ks, settings.max_ks)),
    )


def _largest(measures: Sequence[Measure], limit: float | None) -> Measure | None:
    """Return the largest of those over limit and chance; if none is, the largest of all."""
    return max(measures, key=lambda measure: (_over(measure, limit), measure[0]), default=None)


def _over(measure: Measure, limit: float | None) -> bool:
    return limit is not None and measure[0] > max(limit, measure[1])


def estimate(profile: Profile, confidence: Moments, max_drop: float | None) -> Estimate | None:
    """Estimate the accuracy from confidences; None where they are not calibrated, or there are none.

    Args:
        profile: the profile of the test texts.
        confidence: the confidences of the answers.
        max_drop: the tolerated drop; None tolerates any.
    """
    right = profile.right
    value = profile.expected(confidence)
    if right is None or value is None:
        return None
    spread = sqrt(confidence.variance / confidence.rows + right.gap.variance / right.gap.rows)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * spread
    tested = right.share.mean
    high = min(value + half, 1.0)
    drifts = max_drop is not None and high < tested - max_drop
    return Estimate(min(max(value, 0.0), 1.0), max(value - half, 0.0), max(high, 0.0), tested, drifts)


def _sentence(
    verdict: Verdict, texts: int, findings: Sequence[Finding], accuracy: Estimate | None, settings: Watch
) -> str:
    if verdict == "too few texts":
        return f"no verdict: {texts:,} texts were counted, watch.min_texts is {settings.min_texts:,}"
    changed = ", ".join(_words(finding, settings) for finding in findings if finding.drifts)
    parts = [f"drift over {texts:,} texts: {changed or 'the model is right less often'}"]
    if verdict == "no drift":
        parts = [f"no drift: {texts:,} texts are like the test texts"]
    if accuracy is not None:
        interval = f"{100 * accuracy.low:.1f}–{100 * accuracy.high:.1f}"
        tested = f"{100 * accuracy.tested:.1f}% on test"
        parts.append(f"estimated accuracy {100 * accuracy.accuracy:.1f}% ({interval}), {tested}")
    return "; ".join(parts)


def _words(finding: Finding, settings: Watch) -> str:
    exceeded = []
    if _over((finding.psi, finding.psi_by_chance), settings.max_psi):
        exceeded.append(f"PSI {finding.psi:.2f} over {settings.max_psi:g}")
    if finding.ks is not None and _over((finding.ks, finding.ks_by_chance or 0.0), settings.max_ks):
        exceeded.append(f"KS {finding.ks:.2f} over {settings.max_ks:g}")
    return f"{finding.feature} ({', '.join(exceeded)})"
