"""Mixup: rows whose embeddings are blends of two, which teacher and student answer alike.

MixKD (Liang et al. 2021, "MixKD: Towards Efficient Distillation of Large-scale Language Models"). A row keeps its own
tokens, mask and length; where its partner has a token at the same place, the embedding moves towards the partner's.
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
    """Rows that are blended with others of their batch; none has a gold label.

    Attributes:
        partners: [batch] place in the batch of the row that each is blended with.
        shares: [batch] of the row itself, from 0.5 to 1.
    """

    partners: Ints
    shares: npt.NDArray[np.float32]


def mix(batch: Batch, alpha: float, seed: int, step: int) -> MixedBatch:
    """Blend a batch's rows.

    Args:
        batch: the rows.
        alpha: a row's share is drawn from Beta(alpha, alpha); of the two shares the row has the larger.
        seed: of the run; with the step and the batch's rows it fixes the draws, so a resumed run draws the same.
        step: of the run.
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
    """Blend the embeddings of the forward passes inside the block; those of a batch that is not mixed stay."""
    if not isinstance(batch, MixedBatch):
        yield
        return

    def blend(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        partners = torch.from_numpy(batch.partners).to(output.device)
        theirs = torch.from_numpy((1 - batch.shares)[:, None] * batch.attention_mask[batch.partners])
        return output + theirs[:, :, None].to(output) * (output[partners] - output)

    handle = model.get_input_embeddings().register_forward_hook(blend)
    try:
        yield
    finally:
        handle.remove()
