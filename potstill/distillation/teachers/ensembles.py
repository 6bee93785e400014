"""Several teachers as one source of outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from potstill.data.tokens.batches import Batch
from potstill.distillation.teachers.mean_answers import Ensemble, Weights, mean_logits
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.providers import Source
from potstill.pretrained.members import Weight


@dataclass(frozen=True)
class AllMembers:
    """A source of the logits of all members of an ensemble, [batch, ..., members, classes], and of the first's layers.

    Attributes:
        sources: one for each member.
    """

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """How many they are."""
        return f"an ensemble of {len(self.sources)} teachers"

    def supports(self, needs: Needs) -> bool:
        """What the first does."""
        return self.sources[0].supports(needs)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Every member's answer to the same rows."""
        first, *others = self.sources
        found = first(batch, needs)
        return replace(found, logits=torch.stack([found.logits, *(other(batch).logits for other in others)], dim=-2))


@dataclass(frozen=True)
class Averaged:
    """A source of an ensemble's outputs, made of one that gives its members' logits.

    Attributes:
        source: gives logits [batch, ..., members, classes].
        weights: see `Weights`.
    """

    source: Source
    weights: tuple[Weight, ...]

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    def supports(self, needs: Needs) -> bool:
        """What the source does."""
        return self.source.supports(needs)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """The members' answers and their mean."""
        found = self.source(batch, needs)
        logits = mean_logits(found.logits, self.weights)
        return replace(found, logits=logits, ensemble=Ensemble(found.logits, self.weights))


def average(source: Source, weights: Weights) -> Source:
    """The source itself of one teacher; of several, whose logits it gives side by side, their mean."""
    return source if len(weights) == 1 else Averaged(source, tuple(weights))
