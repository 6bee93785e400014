"""Parity of an exported model with the trained one: compare their logits on dev."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from potstill.data.tokens.batches import Batch, Labels, TokenDataset, sorted_batches
from potstill.distillation.teachers.predict import LogitsCollector
from potstill.errors import ParityError
from potstill.inference.runtime import EMBEDDING
from potstill.kinds.definitions.kind import AGREEMENT
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.scores.statistics import Comparison, compare_scores

Logits = npt.NDArray[np.float32]


def onnx_logits(path: Path, dataset: TokenDataset, *, batch_tokens: int = 2048) -> Logits:
    """Compute the logits of an ONNX model over a dataset, in the form of `predict_logits`, on all CPU cores."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs() if item.name != EMBEDDING]
    collector: LogitsCollector | None = None
    for rows in sorted_batches(dataset.lengths, batch_tokens):
        batch = dataset.batch(rows)
        arrays = session.run(outputs, feed(batch, names))
        logits = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
        collector = collector or LogitsCollector(dataset, logits.shape[-1])
        collector.add(batch, logits.astype(np.float32, copy=False))
    assert collector is not None
    return collector.ordered()


def feed(batch: Batch, names: list[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the inputs of a model that have these names."""
    arrays = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }
    return {name: array for name in names if (array := arrays[name]) is not None}


@dataclass(frozen=True)
class Parity:
    """The comparison of an exported variant with the torch student on dev.

    Attributes:
        max_difference: largest absolute difference of a logit.
        agreement: share of equal answers: rows with the same label, tokens with the same tag, windows with the same
            span, or single labels of a multi-label task; for regression the correlation.
        agreement_low: lower end of its interval.
        agreement_high: upper end.
        drop: the task's score of the torch student minus that of the variant, with its paired interval.
        key: name of that score.
    """

    max_difference: float
    agreement: float
    agreement_low: float
    agreement_high: float
    drop: Comparison
    key: str = "accuracy"

    def as_dict(self) -> dict[str, float]:
        """Return the numbers for a JSON report."""
        return {
            "max_difference": self.max_difference,
            "agreement": self.agreement,
            "agreement_low": self.agreement_low,
            "agreement_high": self.agreement_high,
            f"{self.key}_drop": self.drop.difference,
            f"{self.key}_drop_low": self.drop.low,
            f"{self.key}_drop_high": self.drop.high,
        }


def compare(
    torch_logits: Logits,
    variant: Logits,
    labels: Labels,
    task: TaskKind = "single_label",
    *,
    replicates: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Parity:
    """Compare the logits of a torch model and of an exported variant, both in the form of `predict_logits`.

    Both are scored on the same resamples of the rows, since they differ on few of them.

    Args:
        torch_logits: logits of the torch model.
        variant: logits of the exported variant.
        labels: gold labels of the rows.
        task: determines agreement and score.
        replicates: resamples of the bootstrap.
        confidence: level of the intervals.
        seed: of the bootstrap.

    Raises:
        ParityError: the variant's logits are NaN or infinite.
    """
    exact = flat(torch_logits)
    exported = flat(variant)
    if not np.isfinite(exported).all():
        raise ParityError(
            "the exported model gives NaN or infinite logits; set project.precision to fp32 and train again"
        )
    kind = KINDS[task]
    key = kind.scoring.key
    options: dict[str, Any] = {"replicates": replicates, "confidence": confidence, "seed": seed}
    before, after = (kind.dev_moments(labels, logits) for logits in (torch_logits, variant))
    agreement = kind.agreement_moments(labels, torch_logits, variant)
    low, high = agreement.intervals(**options)[AGREEMENT]
    return Parity(
        max_difference=float(np.abs(exact - exported).max()),
        agreement=kind.scoring.agreement(torch_logits, variant),
        agreement_low=low,
        agreement_high=high,
        drop=compare_scores([before], [after], key, **options),
        key=key,
    )


def flat(logits: npt.NDArray[Any]) -> Logits:
    """Concatenate an array of objects to one array [tokens, outputs]; other logits are returned as they are."""
    return np.concatenate([*logits]) if logits.dtype.kind == "O" else logits
