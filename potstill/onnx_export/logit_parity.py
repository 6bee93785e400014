"""Does the exported model answer as the trained one does?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from potstill.config.base import TaskKind
from potstill.data.tokens.batches import Batch, Labels, TokenDataset, sorted_batches
from potstill.distillation.teachers.predict import Collected
from potstill.errors import ParityError
from potstill.inference.runtime import EMBEDDING
from potstill.scores.scoring import SCORINGS

Logits = npt.NDArray[np.float32]


def onnx_logits(path: Path, dataset: TokenDataset, *, batch_tokens: int = 2048) -> Logits:
    """Logits of an ONNX model over a dataset, in the order and form of `predict_logits`, on all cores."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs() if item.name != EMBEDDING]
    collected: Collected | None = None
    for rows in sorted_batches(dataset.lengths, batch_tokens):
        batch = dataset.batch(rows)
        found = session.run(outputs, _feed(batch, names))
        logits = found[0] if len(found) == 1 else np.stack(found, axis=-1)
        collected = collected or Collected(dataset, logits.shape[-1])
        collected.add(batch, logits.astype(np.float32, copy=False))
    assert collected is not None
    return collected.ordered()


def _feed(batch: Batch, names: list[str]) -> dict[str, npt.NDArray[np.int64]]:
    arrays = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }
    return {name: array for name in names if (array := arrays[name]) is not None}


@dataclass(frozen=True)
class Parity:
    """One exported variant against the torch student on dev.

    Attributes:
        max_difference: largest absolute difference of a logit.
        agreement: share of rows (of entities: tokens) with the same label; of questions, of windows with the same span;
            of several labels, share of equal ones; of numbers, correlation.
        accuracy_drop: torch accuracy minus the variant's, or of the task's score; negative where the variant is better.
        key: of that score.
    """

    max_difference: float
    agreement: float
    accuracy_drop: float
    key: str = "accuracy"

    def as_dict(self) -> dict[str, float]:
        """For a JSON report."""
        return {
            "max_difference": self.max_difference,
            "agreement": self.agreement,
            f"{self.key}_drop": self.accuracy_drop,
        }


def compare(torch_logits: Logits, variant: Logits, labels: Labels, task: TaskKind = "single_label") -> Parity:
    """Compare logits in the form of `predict_logits`.

    Raises:
        ParityError: the variant gives NaN or infinite logits.
    """
    ours, theirs = flat(torch_logits), flat(variant)
    if not np.isfinite(theirs).all():
        raise ParityError(
            "the exported model gives NaN or infinite logits; set project.precision to fp32 and train again"
        )
    scoring = SCORINGS[task]
    return Parity(
        max_difference=float(np.abs(ours - theirs).max()),
        agreement=scoring.agreement(torch_logits, variant),
        accuracy_drop=scoring.score(torch_logits, labels) - scoring.score(variant, labels),
        key=scoring.key,
    )


def flat(logits: npt.NDArray[Any]) -> Logits:
    """All logits as numbers [rows, outputs]; those of spans token after token."""
    return np.concatenate([*logits]) if logits.dtype.kind == "O" else logits
