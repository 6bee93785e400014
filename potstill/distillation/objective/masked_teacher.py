"""General distillation on masked text: the student learns a masked language model's predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from potstill.config.distill_params import MaskedTerm
from potstill.data.tokens.batches import Batch
from potstill.data.tokens.masking import Masking
from potstill.distillation.losses.logits import cross_entropy, kl_divergence
from potstill.distillation.objective.composition import Distillation
from potstill.distillation.objective.gold_labels import Terms
from potstill.distillation.objective.masked_tokens import MaskedLanguage, predicting
from potstill.distillation.objective.terms import LossInputs, Term
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.providers import LiveTeacher, Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MaskedTeacher(LiveTeacher):
    """A masked language model that runs on each batch; its logits are [masked tokens, vocabulary]."""

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Run the teacher on a masked batch."""
        with predicting(self._model, torch.from_numpy(batch.labels >= 0).to(self._device)):
            return super().__call__(batch, needs)


@dataclass(frozen=True)
class MaskedBlend:
    """kl * T^2 * KL(teacher || student) + ce * CE at the masked tokens (Sanh et al. 2019, "DistilBERT", section 3)."""

    weights: MaskedTerm

    def __call__(self, inputs: LossInputs) -> Terms:
        """Compute the two weighted terms of a batch, as means over the masked tokens of the step."""
        weights = self.weights
        size = max(inputs.step.targets, 1)
        soft = kl_divergence(inputs.student.logits, inputs.teacher.logits, weights.temperature)
        hard = cross_entropy(inputs.student.logits, inputs.labels[inputs.labels >= 0])
        return {"kl": weights.kl * soft.sum() / size, "ce": weights.ce * hard.sum() / size}

    def describe(self) -> str:
        """Describe the two terms in one line."""
        weights = self.weights
        return f"{weights.kl:g} * T^2 * KL(T={weights.temperature:g}) + {weights.ce:g} * CE on masked tokens"


class MaskedDistillation(Distillation):
    """Distillation on masked text: a loss on the predictions of masked tokens, and terms on layers."""

    def __init__(
        self, masking: Masking, source: Source, blend: MaskedBlend, terms: Mapping[str, Term] | None = None
    ) -> None:
        super().__init__(source, blend, terms)
        self._masked = MaskedLanguage(masking)

    def view(self, batch: Batch, epoch: int) -> Batch:
        """Mask the batch as in that epoch."""
        return self._masked.view(batch, epoch)

    def observe(self, model: PreTrainedModel, batch: Batch, device: torch.device, needs: Needs) -> Outputs:
        """Run the model on a masked batch: logits [masked tokens, vocabulary], and the layers that are needed."""
        return self._masked.observe(model, batch, device, needs)
