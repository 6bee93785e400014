"""From logits to the numbers of reports/metrics.json. Pure: answers come in, plain values go out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from potstill.config import Evaluate
from potstill.evaluation import metrics
from potstill.evaluation.metrics import Doubles, Floats, Ints, Reliability
from potstill.evaluation.statistics import paired_bootstrap, wilson_interval


@dataclass(frozen=True)
class Answers:
    """What one model said about the test split.

    Attributes:
        logits: [rows, labels], finite.
        temperature: divides the logits before they become probabilities; 1 for a model that was not calibrated.
        parameters: weights of the model, counted.
        file_bytes: size of the file that holds them.
        members: models whose probabilities the logits are the mean of; weights, file and speed are one model's.
    """

    logits: Floats
    temperature: float
    parameters: int
    file_bytes: int
    members: int = 1

    @cached_property
    def predictions(self) -> Ints:
        """[rows] the most probable class."""
        found: Ints = self.logits.argmax(axis=1)
        return found

    @cached_property
    def log_probabilities(self) -> Doubles:
        """[rows, labels] after calibration."""
        return metrics.log_softmax(self.logits, self.temperature)

    @property
    def probabilities(self) -> Doubles:
        """[rows, labels] after calibration."""
        return np.exp(self.log_probabilities)

    def reliability(self, labels: Ints, bins: int) -> Reliability:
        """Confidence against accuracy after calibration."""
        return metrics.reliability(labels, self.probabilities, bins)


def score(labels: Ints, answers: Answers, settings: Evaluate) -> dict[str, float | int]:
    """One model's entry of metrics.json, without its speed.

    Args:
        labels: [rows] gold classes.
        answers: the model's logits on those rows.
        settings: level of the interval, bins of the calibration error.
    """
    correct = int((answers.predictions == labels).sum())
    low, high = wilson_interval(correct, len(labels), settings.confidence)
    return {
        "accuracy": metrics.accuracy(labels, answers.predictions),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": metrics.macro_f1(labels, answers.predictions),
        "ece": answers.reliability(labels, settings.calibration_bins).ece,
        "temperature": answers.temperature,
        "parameters": answers.parameters,
        "megabytes": answers.file_bytes / 1e6,
    } | ({"members": answers.members} if answers.members > 1 else {})


def compare(
    labels: Ints, models: Mapping[str, Answers], candidate: str, settings: Evaluate, *, seed: int
) -> dict[str, Any]:
    """`comparison` of metrics.json, without the speed-up: the candidate against teacher and control.

    Args:
        labels: [rows] gold classes.
        models: name -> answers; holds `teacher`, `control` and the candidate.
        candidate: name of the model that ships.
        settings: level of the interval and resamples of the bootstrap.
        seed: of the bootstrap.
    """
    ours, teacher, control = models[candidate], models["teacher"], models["control"]
    against = paired_bootstrap(
        labels, ours.predictions, control.predictions,
        replicates=settings.bootstrap, confidence=settings.confidence, seed=seed,
    )  # fmt: skip
    found = {
        "agreement": metrics.agreement(teacher.predictions, ours.predictions),
        "kl": metrics.kl_divergence(teacher.log_probabilities, ours.log_probabilities),
        "gain_over_control": against.difference,
        "control": against.to_json(),
    }
    taught = metrics.accuracy(labels, teacher.predictions)
    if taught > 0:  # a ratio to nothing is absent, and a missing number fails its gate
        found["teacher_ratio"] = metrics.accuracy(labels, ours.predictions) / taught
    return found
