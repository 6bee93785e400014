"""The Prometheus metrics of the watcher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as Count

from potstill.inference.profile import Counts, Observation, Profile, confidences
from potstill.inference.runtime import Prediction
from potstill.kinds.definitions.token_classification import Tagging
from potstill.serving.telemetry import create_metric

_CONFIDENCE_BUCKETS = tuple(step / 20 for step in range(1, 21))


class WatchMetrics:
    """The metrics of a watched service."""

    def __init__(self, profile: Profile, registry: CollectorRegistry) -> None:
        self._profile = profile
        counter = partial(create_metric, registry, Count)
        gauge = partial(create_metric, registry, Gauge)
        self.failures = counter("watch_failures", "Failures to count or to write.")
        self.dropped = counter("watch_dropped_texts", "Texts that were not counted because too many waited.")
        self._texts = counter("watched_texts", "Texts that were answered and counted.")
        self._labels = counter("answers", "Answers by label; entities by type.", "label")
        self._psi = gauge("drift_psi", "Population stability index of the last window.", "feature")
        self._ks = gauge("drift_ks", "Kolmogorov-Smirnov distance of the last window.", "feature")
        self._accuracy = gauge("estimated_accuracy", "Accuracy in the last window, estimated from its confidences.")
        about_confidence = "The confidence of answers."
        self._confidence = create_metric(
            registry, Histogram, "confidence", about_confidence, buckets=_CONFIDENCE_BUCKETS
        )

    def count(self, observations: Sequence[Observation]) -> None:
        """Count answered texts."""
        self._texts.inc(len(observations))
        labels = Counter(label for observation in observations for label in _labels(observation))
        for label, number in labels.items():
            self._labels.labels(label).inc(number)
        scores = confidences(observations)
        for score in scores[~np.isnan(scores)].tolist():
            self._confidence.observe(score)

    def judge(self, counts: Counts, shifts: Mapping[str, tuple[float, float | None]]) -> None:
        """Set the gauges of a window's distance from the profile.

        Args:
            counts: counts of the window.
            shifts: feature -> PSI and KS distance.
        """
        for name, (psi, distance) in shifts.items():
            self._psi.labels(name).set(psi)
            if distance is not None:
                self._ks.labels(name).set(distance)
        if (expected := self._profile.expected(counts.confidence)) is not None:
            self._accuracy.set(expected)


def _labels(observation: Observation) -> list[str]:
    """List the labels or entity types of an answer; empty for a number and for an answer to a question."""
    answer = observation.answer
    if isinstance(answer, Tagging):
        return [entity.type for entity in answer.entities]
    if not isinstance(answer, Prediction) or isinstance(answer.label, float):
        return []
    labels = answer.label if isinstance(answer.label, list) else [answer.label]
    return [str(label) for label in labels]
