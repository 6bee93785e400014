"""Sources of a teacher's outputs: the protocol, a live model, and combinations of sources."""

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
    """Provides a teacher's outputs on a batch.

    Attributes:
        name: name of the source for messages.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def supports(self, needs: Needs) -> bool:
        """Whether the source provides what is needed beyond logits."""

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Return the teacher's outputs on the batch's token ids.

        Args:
            batch: the rows.
            needs: what is needed beyond logits; `supports` is true of it.
        """


class LiveTeacher:
    """A teacher that runs on each batch, in evaluation mode and without gradients.

    Args:
        model: the teacher, which is moved to the device.
        device: device of the run.
        precision: number format of the run.
    """

    name = "a live teacher of this class"

    def __init__(self, model: PreTrainedModel, device: torch.device, precision: Precision = "fp32") -> None:
        self._model = model.to(device).eval()
        self._device = device
        self._precision = precision

    def supports(self, needs: Needs) -> bool:
        """Whether the teacher has the layers; a class that is not supported has logits alone."""
        if self._model.config.model_type not in FAMILIES:
            return not needs
        layers = len(layers_of(self._model))
        states = frozenset(range(layers + 1))
        return needs.covered_by(Needs(hidden=states, attention=states - {0}))

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Run the teacher.

        Not in inference mode, whose tensors cannot take part in the backward pass of a student's loss.
        """
        precise = autocast(self._device, self._precision)
        with torch.no_grad(), precise, mixed_embeddings(self._model, batch):
            return observe(self._model, model_inputs(batch, self._device), needs)


@dataclass(frozen=True)
class FallbackSource:
    """Uses the first of several sources that provides what a batch needs, such as a store before a live teacher.

    Logits always come from the first source. They are then the same whatever else is needed, and for an ensemble they
    include all members, whereas layers come from one live teacher.

    Attributes:
        sources: the sources in order of preference.
    """

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """The names of all sources."""
        return " or ".join(source.name for source in self.sources)

    def supports(self, needs: Needs) -> bool:
        """Whether any of the sources provides what is needed beyond logits."""
        return any(source.supports(needs) for source in self.sources)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Return the outputs of the first source that supports the needs, with the logits of the first source."""
        source = next(source for source in self.sources if source.supports(needs))
        outputs = source(batch, needs)
        if source is self.sources[0]:
            return outputs
        first = self.sources[0](batch)
        return replace(outputs, logits=first.logits, ensemble=first.ensemble)


@dataclass(frozen=True)
class WrappedSource:
    """Base of sources that pass the outputs of another source on in another form.

    Attributes:
        source: the other source.
    """

    source: Source

    @property
    def name(self) -> str:
        """The name of the other source."""
        return self.source.name

    def supports(self, needs: Needs) -> bool:
        """Whether the other source provides what is needed beyond logits."""
        return self.source.supports(needs)


@dataclass(frozen=True)
class TeacherTokensSource(WrappedSource):
    """Runs a source on the teacher's token ids of a batch's rows, for a student with another tokenizer.

    Attributes:
        rows: the teacher's token ids of the student's rows, in the same order.
    """

    rows: TokenDataset

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Return the source's outputs on the same rows, with the mask of the teacher's tokens."""
        teacher_batch = self.rows.batch(batch.rows)
        outputs = self.source(teacher_batch, needs)
        return replace(outputs, mask=torch.from_numpy(teacher_batch.attention_mask))


@dataclass(frozen=True)
class MixupSource(WrappedSource):
    """Runs a live teacher on rows that are mixed with others, which are in no store; other rows use another source.

    Attributes:
        live: the teacher, for mixed rows.
    """

    live: LiveTeacher

    def supports(self, needs: Needs) -> bool:
        """Whether both sources provide what is needed beyond logits."""
        return self.source.supports(needs) and self.live.supports(needs)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Return the outputs of the source that the batch needs."""
        source = self.live if isinstance(batch, MixedBatch) else self.source
        return source(batch, needs)
