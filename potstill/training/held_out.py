"""Evaluation of objectives without labels on held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from potstill.compute.precision import Precision, autocast
from potstill.data.splits.splitting import hash_position
from potstill.data.tokens.batches import TokenDataset, sorted_batches
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep
from potstill.errors import EmptyDataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The epoch number of the masks of held-out rows; the same at every evaluation, and not an epoch of training.
_EVALUATION_EPOCH = -1
# Padded tokens of a batch.
_BATCH_TOKENS = 4096


def hold_out(dataset: TokenDataset, share: float, seed: int) -> tuple[TokenDataset, TokenDataset]:
    """Split a dataset into rows to train on and about that share of rows for evaluation, at least one row in each.

    The split depends on a row's tokens and the seed, so that all copies of a row are in the same part.

    Raises:
        EmptyDataError: there are fewer than two distinct rows.
    """
    keys = dataset.keys()
    positions = np.array([hash_position(key.tobytes().hex(), seed) for key in keys])
    if len(set(positions)) < 2:
        raise EmptyDataError(
            f"the texts of train and transfer are {len(set(positions))} distinct text(s), but training without labels "
            "needs some to learn from and some to judge by; give more texts"
        )
    held_out = positions < share
    held_out |= positions == positions.min()
    held_out &= positions != positions.max()
    return dataset.select(np.flatnonzero(~held_out)), dataset.select(np.flatnonzero(held_out))


def negative_loss(
    objective: Objective, rows: TokenDataset, device: torch.device, precision: Precision
) -> Callable[[PreTrainedModel], float]:
    """Make a score for `train`: minus the objective's loss over all rows, with each term at its full weight."""
    batches = sorted_batches(rows.lengths, _BATCH_TOKENS)
    views = [objective.view(rows.batch(part), _EVALUATION_EPOCH) for part in batches]
    step = OptimizerStep.of(views)
    needs = objective.needs(step.index, step.total)

    @torch.inference_mode()
    def score(model: PreTrainedModel) -> float:
        model.eval()
        total = 0.0
        for batch in views:
            with autocast(device, precision):
                outputs = objective.observe(model, batch, device, needs)
            total += sum(term.item() for term in objective(outputs, batch, step).values())
        return -total

    return score
