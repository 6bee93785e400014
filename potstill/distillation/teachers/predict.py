"""Compute the logits of a model over a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from potstill.compute.precision import Precision, autocast
from potstill.data.tokens.batches import SPAN, Batch, TokenDataset, sorted_batches
from potstill.distillation.teachers.outputs import observe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Padded tokens of a batch by device. 1,024 fit a CPU's caches and take half the time of 8,192, the default elsewhere.
BATCH_TOKENS = {"cpu": 1024}


def model_inputs(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """Convert a batch to the keyword arguments of a transformers model."""
    arrays = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items() if array is not None}


class LogitsCollector:
    """Collects logits batch by batch, and returns them in the order of the dataset."""

    def __init__(self, dataset: TokenDataset, classes: int) -> None:
        form = dataset.labels.dtype
        self._spans = form == SPAN
        self._by_token = self._spans or form.kind == "O"
        self._logits: npt.NDArray[Any] = (
            np.empty(len(dataset), dtype=object)
            if self._by_token
            else np.empty((len(dataset), classes), dtype=np.float32)
        )
        self._none = np.empty((0, classes), dtype=np.float32)

    def add(self, batch: Batch, logits: npt.NDArray[np.float32]) -> None:
        """Add the logits of a batch, [batch, classes] or [batch, sequence, classes]."""
        if batch.answers is None:
            self._logits[batch.rows] = logits
            return
        for row, values, answers in zip(batch.rows, logits, batch.answers, strict=True):
            self._logits[row] = values[answers]

    def ordered(self) -> npt.NDArray[Any]:
        """Return logits in the form of `predict_logits`."""
        if self._by_token and not self._spans:
            return np.concatenate([self._none, *self._logits])
        return self._logits


def predict_logits(
    model: PreTrainedModel,
    dataset: TokenDataset,
    *,
    batch_tokens: int | None = None,
    precision: Precision = "fp32",
    advance: Callable[[float], None] | None = None,
) -> npt.NDArray[Any]:
    """Compute a model's logits over a dataset, in evaluation mode; its mode is restored afterwards.

    Args:
        model: the model.
        dataset: the rows.
        batch_tokens: padded tokens of a batch; None takes the number with the best speed on the model's device.
        precision: number format of the forward pass.
        advance: called with the number of rows of each finished batch.

    Returns:
        Logits in fp32, in the order of the dataset: [rows, classes]; for token classification [answers, classes], the
        labelled tokens of one row after another; for question answering [rows] objects, each [tokens, 2].
    """
    collector = LogitsCollector(dataset, model.config.num_labels)
    for batch, logits in _batch_logits(model, dataset, batch_tokens, precision):
        collector.add(batch, logits)
        if advance is not None:
            advance(len(batch.rows))
    return collector.ordered()


def predict_signals(
    model: PreTrainedModel, dataset: TokenDataset, *, precision: Precision = "fp32"
) -> npt.NDArray[Any]:
    """Compute a model's logits over a dataset as signals for a student, in the form of `StoredSignals`.

    Args:
        model: the model.
        dataset: the rows.
        precision: number format of the forward pass.

    Returns:
        Logits in fp32, in the order of the dataset: [rows, classes], or [rows] objects, each [tokens, outputs] with all
        tokens of the row, in tasks that answer at tokens.
    """
    signals: npt.NDArray[Any] = np.empty(len(dataset), dtype=object)
    by_token = dataset.labels.dtype == SPAN or dataset.labels.dtype.kind == "O"
    for batch, logits in _batch_logits(model, dataset, None, precision):
        lengths = batch.attention_mask.sum(axis=1)
        for row, values, length in zip(batch.rows, logits, lengths, strict=True):
            signals[row] = values[:length].copy() if by_token else values
    return signals if by_token else np.stack([*signals])


@torch.inference_mode()
def _batch_logits(
    model: PreTrainedModel, dataset: TokenDataset, batch_tokens: int | None, precision: Precision
) -> Iterator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Yield each batch with the model's logits in evaluation mode, padded as the batch is."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    for rows in sorted_batches(dataset.lengths, batch_tokens or BATCH_TOKENS.get(device.type, 8192)):
        batch = dataset.batch(rows)
        with autocast(device, precision):
            logits = observe(model, model_inputs(batch, device)).logits
        yield batch, logits.float().cpu().numpy()
    model.train(was_training)
