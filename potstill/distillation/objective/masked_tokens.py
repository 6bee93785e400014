"""Masked language modelling: predict the tokens that were masked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from potstill.data.tokens.batches import Batch
from potstill.data.tokens.masking import Masking
from potstill.distillation.losses.logits import cross_entropy
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep, Terms
from potstill.distillation.teachers.outputs import Needs, Outputs
from potstill.errors import ModelError
from potstill.pretrained.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def predicting(model: PreTrainedModel, where: Tensor) -> Iterator[None]:
    """Compute a masked language model's logits at some tokens only: [selected tokens, vocabulary] inside the block.

    The head is a third of a small model's computation, and only 15% of the tokens need it.

    Args:
        model: a model of a class in `families.FAMILIES`.
        where: [batch, sequence] bool, True at the tokens to predict.

    Raises:
        ModelError: the class is not supported, or the model has no masked-language-modelling head.
    """
    head = _head(model)

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][where], *args[1:])

    with head.register_forward_pre_hook(select):
        yield


def _head(model: PreTrainedModel) -> nn.Module:
    name = family_of(model.config).masked_lm
    try:
        head: nn.Module = model.get_submodule(name)
        return head
    except AttributeError:
        raise ModelError(
            f"a {type(model).__name__} has no head for masked tokens where its class keeps it ({name}); "
            "take a model that was saved with one (a ...ForMaskedLM)"
        ) from None


class MaskedLanguage(Objective):
    """Cross-entropy with the masked tokens, averaged over them (Devlin et al. 2019, "BERT", section 3.1)."""

    def __init__(self, masking: Masking) -> None:
        super().__init__()
        self._masking = masking

    def describe(self) -> list[str]:
        """Describe the one term."""
        return ["CE with the masked tokens"]

    def view(self, batch: Batch, epoch: int) -> Batch:
        """Mask the batch as in that epoch."""
        return self._masking(batch, epoch)

    def observe(self, model: PreTrainedModel, batch: Batch, device: torch.device, needs: Needs) -> Outputs:
        """Run the model on a masked batch: logits [masked tokens, vocabulary]."""
        with predicting(model, torch.from_numpy(batch.labels >= 0).to(device)):
            return super().observe(model, batch, device, needs)

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        """Compute the one term, `mlm`."""
        masked = torch.from_numpy(batch.labels[batch.labels >= 0]).to(outputs.logits.device)
        losses = cross_entropy(outputs.logits, masked)
        return {"mlm": losses.sum() / max(step.targets, 1)}
