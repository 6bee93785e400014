"""The sums over windows: rows, rows put aside, and the counts in the bins of the model's profile."""

from __future__ import annotations

from typing import Any

from potstill.inference.profile import Counts, Profile
from potstill.inference.runtime import ModelCard

Facts = dict[str, Any]
_SUMMED = ("rows", "rejected", "different", "abstained")


class WindowTally:
    """Sums of the facts of windows, in bounded memory.

    Args:
        profile: the profile of the model.

    Attributes:
        sums: `rows` that were answered, those `rejected`, texts that are `different` within their window, and answers
            `abstained` from.
        counts: texts and answers in the profile's bins.
    """

    def __init__(self, profile: Profile) -> None:
        self.sums = dict.fromkeys(_SUMMED, 0)
        self.counts = Counts(profile)

    def add(self, facts: Facts) -> None:
        """Add the facts of a window, as `WindowScorer.score` returns them."""
        for name in _SUMMED:
            value = facts[name]
            self.sums[name] += len(value) if isinstance(value, list) else value
        self.counts.merge(facts["counts"])

    @property
    def rejected_share(self) -> float:
        """The share of the rows that were put aside; 0 without rows."""
        return self.sums["rejected"] / max(self.sums["rows"] + self.sums["rejected"], 1)

    def to_json(self) -> Facts:
        """Return the sums as plain values."""
        return {**self.sums, "counts": self.counts.to_json()}


def label_counts(counts: Counts, card: ModelCard, profile: Profile) -> dict[str, int]:
    """Count the answers with each label, or the entities of each type; empty where the model has none."""
    feature = profile.features.get("label")
    if feature is None:
        return {}
    if card.form == "labels":
        return {str(label): int(bins[1]) for label, bins in zip(card.labels, counts.bins["label"], strict=True)}
    return dict(zip(feature.names, counts.bins["label"][0].tolist(), strict=True))
