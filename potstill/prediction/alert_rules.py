"""Rules over windows of answers, as pure functions of counts.

The counts of a window are a mapping: `texts`; `labels`, what the shares of labels are of (texts, or entities);
`label <name>`, the answers with a label; `confidences` and `confidence`, the number and the sum of confidences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from potstill.config.alerts_params import Alerts, ConfidenceRule, RiseRule, Rule, ShareRule
from potstill.errors import LabelError, ParamsError
from potstill.inference.profile import Counts, Profile
from potstill.inference.runtime import ModelCard
from potstill.prediction.window_tally import label_counts

AnswerCounts = Mapping[str, float]
# Standard deviations that a rise has to be above.
_DEVIATIONS = 3.0
DAY_SECONDS = 86_400


class Finding(NamedTuple):
    """A rule that is broken: the value that breaks it, and a sentence."""

    value: float
    sentence: str


def answer_counts(counts: Counts, card: ModelCard, profile: Profile) -> AnswerCounts:
    """Take from counts in the bins of a profile what rules need."""
    labels = label_counts(counts, card, profile)
    total = counts.texts if card.form == "labels" else sum(labels.values())
    return {
        "texts": counts.texts,
        "labels": total,
        **{f"label {name}": count for name, count in labels.items()},
        "confidences": counts.confidence.rows,
        "confidence": counts.confidence.total,
    }


def check_rules(alerts: Alerts, card: ModelCard, profile: Profile) -> None:
    """Check that a model has what the rules ask for.

    Raises:
        LabelError: it has no such label.
        ParamsError: it has no labels, or no confidence.
    """
    names = label_counts(Counts(profile), card, profile)
    for key, rule in alerts.rules.items():
        if isinstance(rule, ConfidenceRule):
            if profile.confidence is None:
                raise ParamsError(f"alerts.rules.{key}: the model has no confidence; remove the rule")
        elif not names:
            raise ParamsError(f"alerts.rules.{key}: the model has no labels; remove the rule")
        elif str(rule.label) not in names:
            raise LabelError(f"alerts.rules.{key}: the model has no label {rule.label!r}, but {', '.join(names)}")


def judge(rule: Rule, window: AnswerCounts, day: AnswerCounts, min_texts: int) -> Finding | None:
    """Judge a window by a rule.

    Args:
        rule: the rule.
        window: counts of the window, which may be open.
        day: counts of the windows of the day before it.
        min_texts: fewest texts that are judged.

    Returns:
        What breaks the rule; None if nothing does.
    """
    if window["texts"] < min_texts:
        return None
    if isinstance(rule, ConfidenceRule):
        return _judge_confidence(rule, window)
    if not window["labels"]:
        return None
    if isinstance(rule, ShareRule):
        return _judge_share(rule, window)
    return _judge_rise(rule, window, day) if day["texts"] >= min_texts and day["labels"] else None


def _judge_confidence(rule: ConfidenceRule, window: AnswerCounts) -> Finding | None:
    if not window["confidences"]:
        return None
    mean = window["confidence"] / window["confidences"]
    if mean >= rule.below:
        return None
    return Finding(mean, f"the mean confidence of {window['texts']:,.0f} texts is {mean:.3f}, below {rule.below:.3f}")


def _judge_share(rule: ShareRule, window: AnswerCounts) -> Finding | None:
    share = _share(rule, window)
    if share <= rule.above:
        return None
    return Finding(share, f"{share:.1%} of {window['labels']:,.0f} answers are {rule.label}, above {rule.above:.1%}")


def _judge_rise(rule: RiseRule, window: AnswerCounts, day: AnswerCounts) -> Finding | None:
    share = _share(rule, window)
    before = _share(rule, day)
    pooled = (share * window["labels"] + before * day["labels"]) / (window["labels"] + day["labels"])
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / window["labels"] + 1 / day["labels"]))
    if share - before <= max(rule.by, _DEVIATIONS * deviation):
        return None
    return Finding(
        share - before,
        f"{share:.1%} of {window['labels']:,.0f} answers are {rule.label}, {before:.1%} on the day before; more than "
        f"{100 * rule.by:.1f} points above",
    )


def _share(rule: ShareRule | RiseRule, counts: AnswerCounts) -> float:
    return counts[f"label {rule.label}"] / counts["labels"]
