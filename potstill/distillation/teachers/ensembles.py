"""Ensembles: several teachers as one source of outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from potstill.data.tokens.batches import Batch
from potstill.distillation.losses.means import Weights, mean_logits
from potstill.distillation.teachers.mean_answers import Ensemble
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.providers import Source, WrappedSource
from potstill.pretrained.members import Weight


@dataclass(frozen=True)
class StackedSource:
    """Stacks the logits of all members of an ensemble, [batch, ..., members, classes]; layers are the first member's.

    Attributes:
        sources: the source of each member.
    """

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """The number of teachers."""
        return f"an ensemble of {len(self.sources)} teachers"

    def supports(self, needs: Needs) -> bool:
        """Whether the first member provides what is needed beyond logits."""
        return self.sources[0].supports(needs)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Run every member on the same rows."""
        first, *others = self.sources
        outputs = first(batch, needs)
        logits = torch.stack([outputs.logits, *(other(batch).logits for other in others)], dim=-2)
        return replace(outputs, logits=logits)


@dataclass(frozen=True)
class AveragedSource(WrappedSource):
    """Averages the members' logits [batch, ..., members, classes] of another source, and passes them on as well.

    Attributes:
        weights: weights of the members; see `mean_answers.Weights`.
    """

    weights: tuple[Weight, ...]

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Return the members' logits and their weighted mean."""
        outputs = self.source(batch, needs)
        mean = mean_logits(outputs.logits, self.weights)
        return replace(outputs, logits=mean, ensemble=Ensemble(outputs.logits, self.weights))


def average(source: Source, weights: Weights) -> Source:
    """Average a source that stacks members' logits; the source of a single teacher is returned as it is."""
    return source if len(weights) == 1 else AveragedSource(source, tuple(weights))
