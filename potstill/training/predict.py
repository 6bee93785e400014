"""Logits of a model over a dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from potstill.data.batches import Batch, TokenDataset, sorted_batches
from potstill.training.precision import Precision, autocast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What the caches of a core hold: half the time of 8,192 tokens, which an accelerator wants at least.
BATCH_TOKENS = {"cpu": 1024}


def model_inputs(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch as the keyword arguments of a transformers model."""
    arrays = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items() if array is not None}


@torch.inference_mode()
def predict_logits(
    model: PreTrainedModel,
    dataset: TokenDataset,
    *,
    batch_tokens: int | None = None,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    advance: Callable[[float], None] | None = None,
) -> npt.NDArray[np.float32]:
    """[rows, classes] logits in fp32, in the dataset's order, whatever the batches were.

    Batches have `batch_tokens` padded tokens, by default as many as the device works through fastest.
    The model is put in evaluation mode and back in the mode it was in.
    """
    device = device or next(model.parameters()).device
    was_training = model.training
    model.eval()
    logits = np.empty((len(dataset), model.config.num_labels), dtype=np.float32)
    for rows in sorted_batches(dataset.lengths, batch_tokens or BATCH_TOKENS.get(device.type, 8192)):
        with autocast(device, precision):
            output = model(**model_inputs(dataset.batch(rows), device)).logits
        logits[rows] = output.float().cpu().numpy()
        if advance is not None:
            advance(len(rows))
    model.train(was_training)
    return logits


def accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of rows whose largest logit is the gold label's."""
    return float((logits.argmax(axis=1) == labels).mean())
