"""General distillation on masked text: what a masked language model answers, for its student to answer too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from potstill.config.distill_params import MaskedTerm
from potstill.data.tokens.batches import Batch
from potstill.data.tokens.masking import Masking
from potstill.distillation.losses.logits import cross_entropy, kl_divergence
from potstill.distillation.objective.composition import Distillation
from potstill.distillation.objective.gold_labels import Terms
from potstill.distillation.objective.masked_tokens import MaskedLanguage, predicting
from potstill.distillation.objective.terms import Both, Term
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.providers import LiveTeacher, Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MaskedTeacher(LiveTeacher):
    """A live masked language model; its logits are [tokens to predict, vocabulary]."""

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Run it on the masked batch."""
        with predicting(self._model, torch.from_numpy(batch.labels >= 0).to(self._device)):
            return super().__call__(batch, needs)


class MaskedBlend:
    """kl * T^2 * KL(teacher || student) + ce * CE at the masked tokens (Sanh et al. 2019, "DistilBERT", section 3)."""

    names = ("kl", "ce")

    def __init__(self, weights: MaskedTerm) -> None:
        self._weights = weights

    def __call__(self, both: Both) -> Terms:
        """The two weighted terms of a batch, means over the masked tokens of the step."""
        weights, size = self._weights, max(both.window.targets, 1)
        soft = kl_divergence(both.student.logits, both.teacher.logits, weights.temperature)
        hard = cross_entropy(both.student.logits, both.labels[both.labels >= 0])
        return {"kl": weights.kl * soft.sum() / size, "ce": weights.ce * hard.sum() / size}

    def describe(self) -> str:
        """The blend as the user reads it."""
        weights = self._weights
        return f"{weights.kl:g} * T^2 * KL(T={weights.temperature:g}) + {weights.ce:g} * CE on masked tokens"


class MaskedDistillation(Distillation):
    """Distillation on masked text: what both models predict behind the mask, and further terms on layers."""

    def __init__(
        self, masking: Masking, source: Source, blend: MaskedBlend, terms: Mapping[str, Term] | None = None
    ) -> None:
        super().__init__(source, blend, terms)
        self._masked = MaskedLanguage(masking)

    def view(self, batch: Batch, epoch: int) -> Batch:
        """The batch as masked in that epoch."""
        return self._masked.view(batch, epoch)

    def observe(self, model: PreTrainedModel, batch: Batch, device: torch.device, needs: Needs) -> Outputs:
        """Logits [tokens to predict, vocabulary], with what is asked for beside them."""
        return self._masked.observe(model, batch, device, needs)
