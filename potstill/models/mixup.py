"""Mixup of token embeddings: teacher and student both see rows that are interpolated between two.

MixKD (Liang et al. 2021, "MixKD: Towards Efficient Distillation of Large-scale Language Models"). A row keeps its own
tokens, mask and length. At positions where its partner has a token, its embedding moves towards the partner's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from potstill.data.tokens.batches import Batch, Ints

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class MixedBatch(Batch):
    """Rows that are mixed with other rows of their batch; none has a gold label.

    Attributes:
        partners: [batch] index in the batch of the row that each row is mixed with.
        shares: [batch] weight of the row itself, from 0.5 to 1.
    """

    partners: Ints
    shares: npt.NDArray[np.float32]


def mix(batch: Batch, alpha: float, seed: int, step: int) -> MixedBatch:
    """Draw a partner and a share for each row of a batch (MixKD, Liang et al. 2021).

    The draws depend on seed, step and rows alone, so that a resumed run draws the same.

    Args:
        batch: the rows to mix.
        alpha: parameter of Beta(alpha, alpha), from which shares are drawn; a row gets the larger of its two shares.
        seed: seed of the run.
        step: optimizer step, counted from 0.
    """
    random = np.random.default_rng([seed, step, int(batch.rows[0])])
    partners = random.permutation(len(batch.rows)).astype(np.int64)
    drawn = random.beta(alpha, alpha, len(batch.rows))
    shares = np.maximum(drawn, 1 - drawn).astype(np.float32)
    values = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    values["labels"] = np.full_like(batch.labels, np.nan if batch.labels.dtype.kind == "f" else -1)
    return MixedBatch(**values, partners=partners, shares=shares)


@contextmanager
def mixed_embeddings(model: PreTrainedModel, batch: Batch) -> Iterator[None]:
    """Mix the token embeddings of every forward pass inside the block, if the batch is a `MixedBatch`."""
    if not isinstance(batch, MixedBatch):
        yield
        return

    def blend(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        partners = torch.from_numpy(batch.partners).to(output.device)
        weights = torch.from_numpy((1 - batch.shares)[:, None] * batch.attention_mask[batch.partners])
        return output + weights[:, :, None].to(output) * (output[partners] - output)

    with model.get_input_embeddings().register_forward_hook(blend):
        yield
