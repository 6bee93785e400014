"""Logits of a model over a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from potstill.compute.precision import Precision, autocast
from potstill.data.tokens.batches import SPAN, Batch, TokenDataset, sorted_batches
from potstill.distillation.teachers.outputs import logits_of

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


class Collected:
    """Logits that come batch by batch, put in the dataset's order."""

    def __init__(self, dataset: TokenDataset, classes: int) -> None:
        self._form = dataset.labels.dtype
        self._found: npt.NDArray[Any] = (
            np.empty(len(dataset), dtype=object)
            if self._form == SPAN or self._form.kind == "O"
            else np.empty((len(dataset), classes), dtype=np.float32)
        )
        self._none = np.empty((0, classes), dtype=np.float32)

    def add(self, batch: Batch, logits: npt.NDArray[np.float32]) -> None:
        """The logits of a batch, [batch, classes] or [batch, sequence, classes]."""
        if batch.answers is None:
            self._found[batch.rows] = logits
            return
        for row, values, asked in zip(batch.rows, logits, batch.answers, strict=True):
            self._found[row] = values[asked]

    def ordered(self) -> npt.NDArray[Any]:
        """[rows, classes]; of classes of tokens [answers, classes]; of spans [rows] objects, each [tokens, 2]."""
        return (
            self._found if self._form == SPAN or self._form.kind != "O" else np.concatenate([self._none, *self._found])
        )


def predict_logits(
    model: PreTrainedModel,
    dataset: TokenDataset,
    *,
    batch_tokens: int | None = None,
    device: torch.device | None = None,
    precision: Precision = "fp32",
    advance: Callable[[float], None] | None = None,
) -> npt.NDArray[Any]:
    """Logits in fp32, in the dataset's order, whatever the batches were.

    [rows, classes]; of classes of tokens [answers, classes], those of the tokens that are asked, row after row; of
    spans [rows] objects, each [tokens, 2]. Batches have `batch_tokens` padded tokens, by default as many as the device
    works through fastest. The model is put in evaluation mode and back in the mode it was in.
    """
    collected = Collected(dataset, model.config.num_labels)
    for batch, logits in _answers(model, dataset, batch_tokens, device, precision):
        collected.add(batch, logits)
        if advance is not None:
            advance(len(batch.rows))
    return collected.ordered()


def predict_signals(
    model: PreTrainedModel,
    dataset: TokenDataset,
    *,
    device: torch.device | None = None,
    precision: Precision = "fp32",
) -> npt.NDArray[Any]:
    """What a student can learn of a model's head, as `StoredSignals` takes it.

    [rows, classes] logits in fp32; where tokens answer [rows] objects, each [tokens, outputs] of every token.
    """
    found: npt.NDArray[Any] = np.empty(len(dataset), dtype=object)
    by_token = dataset.labels.dtype == SPAN or dataset.labels.dtype.kind == "O"
    for batch, logits in _answers(model, dataset, None, device, precision):
        lengths = batch.attention_mask.sum(axis=1)
        for row, values, length in zip(batch.rows, logits, lengths, strict=True):
            found[row] = values[:length].copy() if by_token else values
    return found if by_token else np.stack([*found])


@torch.inference_mode()
def _answers(
    model: PreTrainedModel,
    dataset: TokenDataset,
    batch_tokens: int | None,
    device: torch.device | None,
    precision: Precision,
) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Batch by batch the logits of a model in evaluation mode, padded as the batch is."""
    device = device or next(model.parameters()).device
    was_training = model.training
    model.eval()
    for rows in sorted_batches(dataset.lengths, batch_tokens or BATCH_TOKENS.get(device.type, 8192)):
        batch = dataset.batch(rows)
        with autocast(device, precision):
            output = logits_of(model(**model_inputs(batch, device)))
        yield batch, output.float().cpu().numpy()
    model.train(was_training)
