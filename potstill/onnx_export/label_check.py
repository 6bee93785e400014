"""The check of a file for another runtime: its answers are those of the fp32 model, or it is not written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from potstill.errors import ParityError
from potstill.inference.runtime import ModelCard, Student, Text, Tokens
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.onnx_export.target_files import LOGITS, Source

Floats = npt.NDArray[np.float32]
# Computes logits [1, labels] from a model's inputs, each int64 [1, tokens].
Run = Callable[[Mapping[str, npt.NDArray[np.int64]]], Floats]
# Texts that are compared, and the least share of equal answers among them.
TEXTS = 500
LEAST_AGREEMENT = 0.995


@dataclass(frozen=True)
class LabelCheck:
    """The comparison of a file for another runtime with the fp32 model and with what ships.

    Attributes:
        texts: number of texts.
        agreement: share of texts with the fp32 model's answer; for numbers the correlation with its numbers.
        difference: the largest difference of a probability, or of a number, from what ships.
    """

    texts: int
    agreement: float
    difference: float


def check_labels(run: Run, source: Source, texts: Sequence[Text], advice: str) -> LabelCheck:
    """Compare the answers of a file with those of the fp32 model.

    Args:
        run: computes the file's logits, which are divided by the temperature already.
        source: the student.
        texts: texts, or pairs of texts.
        advice: what to do if too few answers are equal, as a clause.

    Raises:
        ParityError: fewer than `LEAST_AGREEMENT` of the answers are equal.
    """
    student = Student(source.serving)
    card, kind = student.card, KINDS[student.card.kind]
    rows = student.tokenizer.encode_batch_fast(list(texts))
    written, exact = (_logits(compute, rows, card) for compute in (run, onnx_run(source.fp32)))
    agreement = kind.scoring.agreement(exact, written)
    if not agreement >= LEAST_AGREEMENT:  # a NaN fails too
        likeness = "correlate with" if kind.one_output else "are equal to"
        raise ParityError(
            f"the answers to {len(texts)} dev texts {likeness} those of the fp32 model at {100 * agreement:.2f}%, "
            f"under {100 * LEAST_AGREEMENT:g}%, so nothing was written; {advice}"
        )
    shipped = student.logits(texts)
    if kind.one_output:
        differences = np.abs(written - shipped)
    else:
        differences = np.abs(kind.probabilities(written, 1.0) - kind.probabilities(shipped, card.temperature))
    return LabelCheck(len(texts), agreement, float(differences.max()))


def onnx_run(model: Path) -> Run:
    """Load an ONNX file into onnxruntime on the CPU."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run([LOGITS], dict(inputs))[0]


def _logits(run: Run, rows: Sequence[Tokens], card: ModelCard) -> Floats:
    """Compute the logits [texts, labels], one text a call."""
    return np.concatenate([run(_inputs(row, card)) for row in rows])


def _inputs(row: Tokens, card: ModelCard) -> dict[str, npt.NDArray[np.int64]]:
    ids: Any = row.ids
    values = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": row.type_ids}
    return {name: np.array([values[name]], dtype=np.int64) for name in card.inputs}
