"""Does the exported model answer as the trained one does?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from potstill.config import TaskKind
from potstill.data.batches import Batch, Labels, TokenDataset, sorted_batches
from potstill.errors import ParityError
from potstill.evaluation.numbers import correlation
from potstill.evaluation.scoring import SCORINGS

Logits = npt.NDArray[np.float32]


def onnx_logits(path: Path, dataset: TokenDataset, *, batch_tokens: int = 2048) -> Logits:
    """[rows, classes] logits of an ONNX classifier over a dataset, in its order, on all cores."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    parts: dict[int, Logits] = {}
    for rows in sorted_batches(dataset.lengths, batch_tokens):
        (output,) = session.run(["logits"], _feed(dataset.batch(rows), names))
        parts |= dict(zip(rows.tolist(), output, strict=True))
    return np.stack([parts[row] for row in range(len(dataset))]).astype(np.float32)


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
        agreement: share of rows with the same label; of several labels, share of equal ones; of numbers, correlation.
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
    """Compare [rows, outputs] logits.

    Raises:
        ParityError: the variant gives NaN or infinite logits.
    """
    if not np.isfinite(variant).all():
        raise ParityError(
            "the exported model gives NaN or infinite logits; set project.precision to fp32 and train again"
        )
    scoring = SCORINGS[task]
    return Parity(
        max_difference=float(np.abs(torch_logits - variant).max()),
        agreement=_agreement(torch_logits, variant, task),
        accuracy_drop=scoring.score(torch_logits, labels) - scoring.score(variant, labels),
        key=scoring.key,
    )


def _agreement(ours: Logits, theirs: Logits, task: TaskKind) -> float:
    if task == "regression":
        return correlation(ours[:, 0], theirs[:, 0])
    if task == "multi_label":
        return float(((ours > 0) == (theirs > 0)).mean())
    return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
