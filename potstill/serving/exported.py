"""What the watcher counts, as Prometheus metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as Count

from potstill.inference.profile import Counts, Profile, Seen, confidences
from potstill.inference.runtime import Prediction, Tagging

# Of confidences.
_BUCKETS = tuple(at / 20 for at in range(1, 21))


class Exported:
    """The metrics of a watched service."""

    def __init__(self, profile: Profile, registry: CollectorRegistry) -> None:
        self._profile = profile

        def count(name: str, words: str, *labels: str) -> Count:
            return Count(f"potstill_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"potstill_{name}", words, labels, registry=registry)

        self.failures = count("watch_failures", "Times that something could not be counted or written.")
        self.dropped = count("watch_dropped_texts", "Texts that were not counted, since too many waited.")
        self._texts = count("watched_texts", "Texts that were answered and counted.")
        self._labels = count("answers", "Answers by label; entities by type.", "label")
        self._psi = gauge("drift_psi", "Population stability index of the last window.", "feature")
        self._ks = gauge("drift_ks", "Kolmogorov-Smirnov distance of the last window.", "feature")
        self._accuracy = gauge("estimated_accuracy", "Accuracy over the last window, by its confidences.")
        self._confidence = Histogram(
            "potstill_confidence", "How sure the model was of its answers.", buckets=_BUCKETS, registry=registry
        )

    def count(self, seen: Sequence[Seen]) -> None:
        """Count answered texts."""
        self._texts.inc(len(seen))
        for label, number in Counter(label for one in seen for label in _said(one)).items():
            self._labels.labels(label).inc(number)
        sure = confidences(seen)
        for value in sure[~np.isnan(sure)].tolist():
            self._confidence.observe(value)

    def judge(self, counts: Counts, shifts: Mapping[str, tuple[float, float | None]]) -> None:
        """Show how far a window is from the profile.

        Args:
            counts: the window's.
            shifts: feature -> PSI and KS.
        """
        for name, (index, distance) in shifts.items():
            self._psi.labels(name).set(index)
            if distance is not None:
                self._ks.labels(name).set(distance)
        if (expected := self._profile.expected(counts.confidence)) is not None:
            self._accuracy.set(expected)


def _said(one: Seen) -> list[str]:
    """The labels of an answer that has a few of them."""
    answer = one.answer
    if isinstance(answer, Tagging):
        return [entity.type for entity in answer.entities]
    if isinstance(answer, Prediction) and not isinstance(answer.label, float):
        return [str(label) for label in answer.label] if isinstance(answer.label, list) else [str(answer.label)]
    return []
