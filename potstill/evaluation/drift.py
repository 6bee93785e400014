"""Whether what a service reads and answers is still like what its model was evaluated on; without any label.

A change has to be both large (the limits of `watch` in params) and more than chance. How right the model still is
follows from how sure it is: `Estimate`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal

from potstill.config.serving_params import Watch
from potstill.data.divergence import ks_by_chance, ks_of_counts, psi_by_chance, psi_of_counts
from potstill.inference.profile import Counts, Feature, Moments, Profile, parse_profile
from potstill.inference.window_store import COUNTS, PROFILE, Store

Verdict = Literal["drift", "no drift", "too few texts"]
# A value, and what it stays under by chance.
Measure = tuple[float, float]
# With which a change is more than chance, all distributions together (Bonferroni).
CERTAINTY = 0.99
# Level of the intervals of an accuracy.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Finding:
    """How far one feature is from the profile.

    Attributes:
        feature: its name in the profile.
        psi: population stability index; of several distributions the largest, of those that drift if any does.
        psi_by_chance: what that one stays under by chance.
        ks: Kolmogorov-Smirnov distance, likewise; None where bins have no order.
        ks_by_chance: what that one stays under by chance.
        drifts: whether one of them is over its limit and over chance.
    """

    feature: str
    psi: float
    psi_by_chance: float
    ks: float | None
    ks_by_chance: float | None
    drifts: bool


@dataclass(frozen=True)
class Estimate:
    """The accuracy that confidences tell of: their mean here, plus what the model is righter than sure on the test.

    Difference of confidences (Guillory et al. 2021, "Predicting with confidence on unseen distributions"), on
    probabilities whose temperature was fitted on dev (Guo et al. 2017); on the test texts it is the measured accuracy.
    It follows shifts of the texts; where right answers change for the same texts, it cannot know.

    Attributes:
        accuracy: the estimate.
        low: lower end of its interval by the normal approximation, from the variances here and on the test.
        high: upper end.
        tested: measured on the test texts.
        drifts: whether the whole interval is under what is tolerated.
    """

    accuracy: float
    low: float
    high: float
    tested: float
    drifts: bool


@dataclass(frozen=True)
class Drift:
    """The verdict over some windows.

    `history` has, window by window, its end (seconds since 1970), texts, and PSI of each feature; `damaged` the names
    of files among the newest that are no window.
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

    def to_json(self) -> dict[str, Any]:
        """`reports/drift.json`."""
        return asdict(self)


@dataclass(frozen=True)
class Windows:
    """Windows of one model, oldest first, with the profile in whose bins they count.

    Attributes:
        profile: of the test texts.
        windows: as the service wrote them.
        left_out: how many of the newest ones count in another profile's bins.
        damaged: names of newer files that are no window of counts.
    """

    profile: Profile
    windows: list[dict[str, Any]]
    left_out: int
    damaged: list[str] = field(default_factory=list)


def read_windows(store: Store, newest: int) -> Windows | None:
    """Read the newest windows that a service has written, and no older ones.

    A file that is no window is left out, and the next older one read instead.

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
    kept = [window for window in reversed(windows) if window["profile"] == profile.sum]
    return Windows(profile, kept, len(windows) - len(kept), damaged)


def stored_profile(store: Store) -> Profile | None:
    """Read the profile that a service has written; None where none has written there.

    Raises:
        ModelError: it cannot be used.
    """
    if PROFILE not in store.names():
        return None
    return parse_profile(store.read(PROFILE).encode(), f"{store}/{PROFILE}")


def _window(store: Store, name: str, profile: Profile) -> dict[str, Any] | None:
    """Read one window; None where the file is none, or does not fit the profile that it names."""
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


def pool(found: Windows) -> Counts:
    """Add up all windows."""
    counts = Counts(found.profile)
    for window in found.windows:
        counts.merge(window)
    return counts


def judge(found: Windows, settings: Watch) -> Drift:
    """The verdict over windows, together."""
    profile, counts = found.profile, pool(found)
    certainty = 1 - (1 - CERTAINTY) / sum(len(feature.bins) for feature in profile.features.values())
    findings = [
        _finding(name, feature, [held.tolist() for held in counts.bins[name]], settings, certainty)
        for name, feature in profile.features.items()
    ]
    guess = estimate(profile, counts.confidence, settings.max_accuracy_drop)
    drifts = any(finding.drifts for finding in findings) or (guess is not None and guess.drifts)
    verdict: Verdict = "too few texts" if counts.texts < settings.min_texts else "drift" if drifts else "no drift"
    return Drift(
        verdict=verdict,
        sentence=_sentence(verdict, counts.texts, findings, guess, settings),
        candidate=profile.candidate,
        texts=counts.texts,
        truncated=counts.truncated,
        windows=len(found.windows),
        left_out=found.left_out,
        damaged=found.damaged,
        start=min((window["start"] for window in found.windows), default=None),
        end=max((window["end"] for window in found.windows), default=None),
        findings=findings,
        estimate=guess,
        history=[{key: window[key] for key in ("end", "texts", "psi")} for window in found.windows],
    )


def _finding(
    name: str, feature: Feature, counts: Sequence[Sequence[int]], settings: Watch, certainty: float
) -> Finding:
    pairs = [(bins.counts, held) for bins, held in zip(feature.bins, counts, strict=True)]
    pairs = [(here, there) for here, there in pairs if sum(here) and sum(there)]
    psi = [(psi_of_counts(*pair), psi_by_chance(*pair, certainty)) for pair in pairs]
    ks = [(ks_of_counts(*pair), ks_by_chance(sum(pair[0]), sum(pair[1]), certainty)) for pair in pairs]
    if feature.names:
        ks = []
    index = _largest(psi, settings.max_psi) or (0.0, 0.0)
    distance = _largest(ks, settings.max_ks)
    return Finding(
        feature=name,
        psi=index[0],
        psi_by_chance=index[1],
        ks=None if distance is None else distance[0],
        ks_by_chance=None if distance is None else distance[1],
        drifts=_over(index, settings.max_psi) or (distance is not None and _over(distance, settings.max_ks)),
    )


def _largest(measured: Sequence[Measure], limit: float | None) -> Measure | None:
    """The largest one, of those over limit and chance if there are any."""
    return max(measured, key=lambda one: (_over(one, limit), one[0]), default=None)


def _over(measure: Measure, limit: float | None) -> bool:
    return limit is not None and measure[0] > max(limit, measure[1])


def estimate(profile: Profile, confidence: Moments, max_drop: float | None) -> Estimate | None:
    """The accuracy that confidences tell of; None where they are not calibrated, or there are none.

    Args:
        profile: of the test texts.
        confidence: of answers.
        max_drop: what is tolerated; None tolerates all.
    """
    right, value = profile.right, profile.expected(confidence)
    if right is None or value is None:
        return None
    spread = sqrt(confidence.variance / confidence.rows + right.gap.variance / right.gap.rows)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * spread
    tested, high = right.share.mean, min(value + half, 1.0)
    drifts = max_drop is not None and high < tested - max_drop
    return Estimate(min(max(value, 0.0), 1.0), max(value - half, 0.0), max(high, 0.0), tested, drifts)


def _sentence(
    verdict: Verdict, texts: int, findings: Sequence[Finding], guess: Estimate | None, settings: Watch
) -> str:
    if verdict == "too few texts":
        return f"no verdict: {texts:,} texts were counted, watch.min_texts is {settings.min_texts:,}"
    said = []
    if guess is not None:
        interval = f"{100 * guess.low:.1f}–{100 * guess.high:.1f}"
        said.append(f"estimated accuracy {100 * guess.accuracy:.1f}% ({interval}), {100 * guess.tested:.1f}% on test")
    if verdict == "no drift":
        return "; ".join([f"no drift: {texts:,} texts are like the test texts", *said])
    changed = ", ".join(_words(finding, settings) for finding in findings if finding.drifts)
    return "; ".join([f"drift over {texts:,} texts: {changed or 'the model is right less often'}", *said])


def _words(finding: Finding, settings: Watch) -> str:
    over = []
    if _over((finding.psi, finding.psi_by_chance), settings.max_psi):
        over.append(f"PSI {finding.psi:.2f} over {settings.max_psi:g}")
    if finding.ks is not None and _over((finding.ks, finding.ks_by_chance or 0.0), settings.max_ks):
        over.append(f"KS {finding.ks:.2f} over {settings.max_ks:g}")
    return f"{finding.feature} ({', '.join(over)})"
