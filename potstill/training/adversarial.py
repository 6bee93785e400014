"""Adversarial training: a second pass over the same rows, with their embeddings perturbed along the gradient.

Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification"; often called FGM.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def captured_embeddings(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Capture the token embeddings [rows, sequence, width] of each forward pass inside the block.

    After the backward pass they have a gradient, even if they are frozen.
    """
    captured: list[Tensor] = []

    def capture(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        if output.requires_grad:
            output.retain_grad()
        else:
            output = output.detach().requires_grad_()
        captured.append(output)
        return output

    with model.get_input_embeddings().register_forward_hook(capture):
        yield captured


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

    with model.get_input_embeddings().register_forward_hook(perturb):
        yield
