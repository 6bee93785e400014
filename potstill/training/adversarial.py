"""Adversarial training: a second pass over the same rows, with their embeddings perturbed along the gradient.

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


class CapturedEmbeddings:
    """The token embeddings of a forward pass, with their gradient after the backward pass.

    Attributes:
        embeddings: [rows, sequence, width]; None before the forward pass.
    """

    embeddings: Tensor | None = None

    def perturbation(self, batch: Batch, epsilon: float) -> Tensor:
        """Compute the perturbation after the backward pass; see the function `perturbation`."""
        assert self.embeddings is not None
        assert self.embeddings.grad is not None
        mask = torch.from_numpy(batch.attention_mask).to(self.embeddings.device)
        return perturbation(self.embeddings.grad, mask, epsilon)


@contextmanager
def captured_embeddings(model: PreTrainedModel) -> Iterator[CapturedEmbeddings]:
    """Capture the token embeddings of the forward pass inside the block, with a gradient even if they are frozen."""
    captured = CapturedEmbeddings()

    def capture(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        if output.requires_grad:
            output.retain_grad()
        else:
            output = output.detach().requires_grad_()
        captured.embeddings = output
        return output

    handle = model.get_input_embeddings().register_forward_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()


def perturbation(gradient: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    """Compute a perturbation of length epsilon for each row along its gradient g: epsilon * g / ||g||_2.

    Args:
        gradient: [rows, sequence, width] gradient of the loss by the embeddings; its scale does not matter.
        mask: [rows, sequence], 0 on padding, which is neither perturbed nor counted.
        epsilon: Euclidean length of a row's perturbation over all its tokens.

    Returns:
        [rows, sequence, width]; 0 in rows whose gradient is 0 or not finite.
    """
    real = gradient * mask[:, :, None].to(gradient.dtype)
    norm = torch.linalg.vector_norm(real, dim=(1, 2), keepdim=True, dtype=torch.float32)
    steps = epsilon * real.float() / norm
    return torch.where(norm.isfinite() & (norm > 0), steps, torch.zeros_like(steps)).to(gradient.dtype)


@contextmanager
def perturbed_embeddings(model: PreTrainedModel, added: Tensor) -> Iterator[None]:
    """Add a perturbation to the token embeddings of the forward passes inside the block."""

    def perturb(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + added

    handle = model.get_input_embeddings().register_forward_hook(perturb)
    try:
        yield
    finally:
        handle.remove()
