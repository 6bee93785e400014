"""Adversarial steps: the same rows once more, with their embeddings moved where the loss rises fastest.

Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification"; often called FGM.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from potstill.data.tokens.batches import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Caught:
    """The token embeddings of a forward pass, whose gradient stays after the backward pass.

    Attributes:
        embeddings: [rows, sequence, width]; None before the pass.
    """

    embeddings: Tensor | None = None

    def steepest(self, batch: Batch, epsilon: float) -> Tensor:
        """See `steepest`; behind the backward pass."""
        assert self.embeddings is not None
        assert self.embeddings.grad is not None
        mask = torch.from_numpy(batch.attention_mask).to(self.embeddings.device)
        return steepest(self.embeddings.grad, mask, epsilon)


@contextmanager
def caught_embeddings(model: PreTrainedModel) -> Iterator[Caught]:
    """Catch the embeddings of the forward pass inside the block; a frozen table gives its rows a gradient, too."""
    caught = Caught()

    def catch(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        if output.requires_grad:
            output.retain_grad()
        else:
            output = output.detach().requires_grad_()
        caught.embeddings = output
        return output

    handle = model.get_input_embeddings().register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


def steepest(gradient: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """The step of length epsilon, in each row, along the gradient: epsilon * g / ||g||_2.

    Args:
        gradient: [rows, sequence, width] of the loss by the embeddings; any scale of it gives the same.
        mask: [rows, sequence], 0 on padding, which does not move and does not count.
        epsilon: Euclidean length of a row's step over all its tokens.

    Returns:
        [rows, sequence, width]; 0 in a row without a gradient, or with one that is not finite.
    """
    real = gradient * mask[:, :, None].to(gradient.dtype)
    norm = torch.linalg.vector_norm(real, dim=(1, 2), keepdim=True, dtype=torch.float32)
    steps = epsilon * real.float() / norm
    return torch.where(norm.isfinite() & (norm > 0), steps, torch.zeros_like(steps)).to(gradient.dtype)


@contextmanager
def moved_embeddings(model: PreTrainedModel, step: Tensor) -> Iterator[None]:
    """Add the step to the embeddings of the forward passes inside the block."""

    def move(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + step

    handle = model.get_input_embeddings().register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()
