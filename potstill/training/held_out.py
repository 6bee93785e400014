"""How well an objective without labels does on rows that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from potstill.compute.precision import Precision, autocast
from potstill.data.splits.splitting import hash_position
from potstill.data.tokens.batches import TokenDataset, sorted_batches
from potstill.distillation.objective.gold_labels import Objective, Window
from potstill.errors import EmptyDataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The view that held-out rows are scored in, the same at every evaluation; no epoch of training.
_VIEW = -1


def hold_out(dataset: TokenDataset, share: float, seed: int) -> tuple[TokenDataset, TokenDataset]:
    """Two parts of a dataset: to train on, and a share of about that to judge by; at least one row is in each.

    A row's part depends on its tokens and the seed, so that copies are on one side.

    Raises:
        EmptyDataError: there are fewer than two distinct rows.
    """
    keys = dataset.keys()
    places = np.array([hash_position(key.tobytes().hex(), seed) for key in keys])
    if len(set(places)) < 2:
        raise EmptyDataError(
            f"the texts of train and transfer are {len(set(places))} distinct text(s), but training without labels "
            "needs some to learn from and some to judge by; give more texts"
        )
    held = places < share
    held |= places == places.min()
    held &= places != places.max()
    return dataset.select(np.flatnonzero(~held)), dataset.select(np.flatnonzero(held))


def negative_loss(
    objective: Objective,
    rows: TokenDataset,
    device: torch.device,
    precision: Precision,
    *,
    batch_tokens: int = 4096,
) -> Callable[[PreTrainedModel], float]:
    """A score for `train`: minus the objective's loss over all rows, each term at its full weight."""
    batches = sorted_batches(rows.lengths, batch_tokens)
    views = [objective.view(rows.batch(part), _VIEW) for part in batches]
    window = Window.of(views)
    needs = objective.needs(window.step, window.total)

    @torch.inference_mode()
    def score(model: PreTrainedModel) -> float:
        model.eval()
        total = 0.0
        for batch in views:
            with autocast(device, precision):
                outputs = objective.observe(model, batch, device, needs)
            total += sum(term.item() for term in objective(outputs, batch, window).values())
        return -total

    return score
