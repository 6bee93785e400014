"""When a model should not answer: a threshold from dev, checked on test.

The guarantee of `potstill.scores.selective` asks for rows that did nothing else. Test judges the candidate, so none of
it may set the threshold. Dev sets it, although dev has also chosen the model: which evaluation's weights each training
kept, and whether INT8 ships. That makes the errors on dev a little too few, for which `choices`, the number of models
that could have been chosen, pays in full. Test then checks the threshold, which it had no part in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from potstill.config.evaluation_params import Abstention
from potstill.evaluation.summary import Answers, Gold
from potstill.scores.metrics import Doubles, Flags
from potstill.scores.selective import Curve, Threshold, accuracy_coverage, find_threshold, upper_bound

# Whether the interval on test is above the target, holds it, or is below it.
Check = Literal["CONFIRMED", "NOT CONTRADICTED", "BROKEN"]


@dataclass(frozen=True)
class Abstaining:
    """A threshold on the test split.

    Attributes:
        check: outcome of the check against the target.
        rows: rows of the test split.
        answered: rows that are answered.
        coverage: share of the rows that are answered.
        right: share of the answers that are right; None without answers.
        low: lower Clopper-Pearson bound of that share.
        high: upper bound; each is wrong with a chance of delta at most.
    """

    check: Check
    rows: int
    answered: int
    coverage: float
    right: float | None
    low: float
    high: float


@dataclass(frozen=True)
class AbstentionReport:
    """The section `abstention` of metrics.json.

    Attributes:
        target: share of the answers that have to be right.
        delta: chance that the threshold misses the target.
        choices: number of models among which dev has chosen the shipped one.
        threshold: from dev; None where no threshold is proven to meet the target.
        test: the threshold on test; None without one.
        curve: accuracy against coverage on test.
    """

    target: float
    delta: float
    choices: int
    threshold: Threshold | None
    test: Abstaining | None
    curve: Curve

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)

    def sentence(self) -> str:
        """Say what the threshold brings, without a full stop."""
        if self.threshold is None or self.test is None:
            return (
                f"no threshold is proven on dev to be right on {self.target:.1%} of its answers; label more rows of "
                "dev, or lower evaluate.abstention.right"
            )
        outcome = {
            "CONFIRMED": "which test confirms",
            "NOT CONTRADICTED": "which test does not contradict",
            "BROKEN": "but test contradicts it",
        }[self.test.check]
        right = "none" if self.test.right is None else f"{self.test.right:.1%}"
        return (
            f"from a confidence of {self.threshold.confidence:.4f} on, at least {self.target:.1%} of the answers are "
            f"right, {outcome}: {right} of {self.test.answered:,} answers, {self.test.coverage:.1%} of the texts"
        )


def report_abstention(
    dev: tuple[Gold, Answers], test: tuple[Gold, Answers], settings: Abstention, *, choices: int
) -> AbstentionReport:
    """Find the threshold on dev and check it on test.

    Args:
        dev: gold labels, and the shipped model's answers.
        test: the same of the test split.
        settings: the section.
        choices: number of models among which dev has chosen the shipped one.
    """
    dev_confidence, dev_right = confidence_and_right(*dev)
    threshold = find_threshold(dev_confidence, dev_right, target=settings.right, delta=settings.delta, choices=choices)
    confidence, right = confidence_and_right(*test)
    check = None if threshold is None else _check(confidence >= threshold.confidence, right, settings)
    curve = accuracy_coverage(confidence, right)
    return AbstentionReport(settings.right, settings.delta, choices, threshold, check, curve)


def _check(answered: Flags, right: Flags, settings: Abstention) -> Abstaining:
    rows = len(right)
    count = int(answered.sum())
    hits = int(right[answered].sum())
    counts = np.array([count])
    low = 1 - float(upper_bound(counts - hits, counts, settings.delta)[0])
    high = float(upper_bound(np.array([hits]), counts, settings.delta)[0])
    check: Check = "NOT CONTRADICTED"
    if low >= settings.right:
        check = "CONFIRMED"
    elif high < settings.right:
        check = "BROKEN"
    coverage = count / rows if rows else 0.0
    return Abstaining(check, rows, count, coverage, hits / count if count else None, low, high)


def confidence_and_right(labels: Gold, answers: Answers) -> tuple[Doubles, Flags]:
    """Compute [rows] how sure a model is of its whole answer to a row, and whether that answer is right.

    Raises:
        ValueError: the task has no answers that are right or wrong with a probability.
    """
    return answers.kind.confidence(answers.view(labels), answers.logits, answers.temperature)
