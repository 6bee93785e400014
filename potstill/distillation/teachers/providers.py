"""Where a teacher's outputs come from: a store, a live model, or the first of several that can give what is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from potstill.compute.precision import Precision, autocast
from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs, observe
from potstill.distillation.teachers.predict import model_inputs
from potstill.models.mixup import MixedBatch, mixed_embeddings
from potstill.pretrained.families import FAMILIES, layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Source(Protocol):
    """Gives the teacher's outputs on a batch.

    Attributes:
        name: as a sentence calls it.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def supports(self, needs: Needs) -> bool:
        """Whether it can give that beside logits."""

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """The teacher's outputs on exactly the batch's token ids, with what is asked for, which it supports."""


class LiveTeacher:
    """A teacher that runs on each batch, without gradients and in evaluation mode.

    Args:
        model: the teacher; moved to the device.
        device: where it runs.
        precision: the run's number format.
    """

    name = "a live teacher of this class"

    def __init__(self, model: PreTrainedModel, device: torch.device, precision: Precision = "fp32") -> None:
        self._model, self._device, self._precision = model.to(device).eval(), device, precision

    def supports(self, needs: Needs) -> bool:
        """All layers that the teacher has, if its class is known."""
        if self._model.config.model_type not in FAMILIES:
            return not needs
        layers = len(layers_of(self._model))
        states = frozenset(range(layers + 1))
        return needs.within(Needs(hidden=states, attention=states - {0}))

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Run it. Not in inference mode: its tensors cannot take part in a backward pass, a student's loss does."""
        precise = autocast(self._device, self._precision)
        with torch.no_grad(), precise, mixed_embeddings(self._model, batch):
            return observe(self._model, model_inputs(batch, self._device), needs)


@dataclass(frozen=True)
class FirstAble:
    """The first of several sources that can give what a batch asks for: a store before a live teacher.

    Logits are always the first's, so that what they teach does not change with what else is asked for; and those of an
    ensemble are of all its members, layers of the live one.
    """

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """All of them."""
        return " or ".join(source.name for source in self.sources)

    def supports(self, needs: Needs) -> bool:
        """Whether one of them does."""
        return any(source.supports(needs) for source in self.sources)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """That source's outputs with the first source's logits."""
        able = next(source for source in self.sources if source.supports(needs))
        if able is self.sources[0]:
            return able(batch, needs)
        first = self.sources[0](batch)
        return replace(able(batch, needs), logits=first.logits, ensemble=first.ensemble)


@dataclass(frozen=True)
class OwnTokens:
    """A source that is asked with the teacher's own token ids of a batch's rows, for a student that has others.

    Attributes:
        source: answers to the teacher's token ids.
        rows: the teacher's token ids of the student's rows, in the same order.
    """

    source: Source
    rows: TokenDataset

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    def supports(self, needs: Needs) -> bool:
        """Whether the source does."""
        return self.source.supports(needs)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """The source's outputs on the same rows, with the mask of the teacher's tokens."""
        own = self.rows.batch(batch.rows)
        return replace(self.source(own, needs), mask=torch.from_numpy(own.attention_mask))


@dataclass(frozen=True)
class LiveWhereMixed:
    """A source, but for rows that are blends of others, of which no store knows: these a live teacher answers."""

    source: Source
    live: LiveTeacher

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    def supports(self, needs: Needs) -> bool:
        """Whether both do."""
        return self.source.supports(needs) and self.live.supports(needs)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """The outputs of the one or the other."""
        return (self.live if isinstance(batch, MixedBatch) else self.source)(batch, needs)
