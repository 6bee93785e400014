"""Masked language modelling as an objective: which token was behind the mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from potstill.data.tokens.batches import Batch
from potstill.data.tokens.masking import Masking
from potstill.distillation.losses.logits import cross_entropy
from potstill.distillation.objective.gold_labels import Objective, Terms, Window
from potstill.distillation.teachers.outputs import Needs, Outputs
from potstill.errors import ModelError
from potstill.pretrained.families import family_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@contextmanager
def predicting(model: PreTrainedModel, where: Tensor) -> Iterator[None]:
    """Have a masked language model answer at some tokens only: its logits are [tokens to predict, vocabulary] inside.

    The head is a third of a small model's work; 15% of the tokens need it.

    Args:
        model: of a class in `families.FAMILIES`.
        where: [batch, sequence] bool.

    Raises:
        ModelError: the class is not known, or it has no such head.
    """
    head = _head(model)

    def pick(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][where], *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


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


def targets(batch: Batch, device: torch.device) -> Tensor:
    """[tokens to predict] the ids that are asked for, in the order of the logits."""
    return torch.from_numpy(batch.labels[batch.labels >= 0]).to(device)


class MaskedLanguage(Objective):
    """Cross-entropy with the tokens behind the mask, mean over these (Devlin et al. 2019, "BERT", section 3.1)."""

    def __init__(self, masking: Masking) -> None:
        super().__init__()
        self._masking = masking

    def describe(self) -> list[str]:
        """The one term."""
        return ["CE with the tokens behind the mask"]

    def view(self, batch: Batch, epoch: int) -> Batch:
        """The batch as masked in that epoch."""
        return self._masking(batch, epoch)

    def observe(self, model: PreTrainedModel, batch: Batch, device: torch.device, needs: Needs) -> Outputs:
        """Logits [tokens to predict, vocabulary]."""
        with predicting(model, torch.from_numpy(batch.labels >= 0).to(device)):
            return super().observe(model, batch, device, needs)

    def forward(self, outputs: Outputs, batch: Batch, window: Window) -> Terms:
        """The one term `mlm`."""
        losses = cross_entropy(outputs.logits, targets(batch, outputs.logits.device))
        return {"mlm": losses.sum() / max(window.targets, 1)}
