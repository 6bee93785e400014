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
        numbers: whether the answers are numbers.
        agreement: share of texts with the fp32 model's answer; for numbers the correlation with its numbers.
        difference: the largest difference of a probability, or of a number, from what ships.
    """

    texts: int
    numbers: bool
    agreement: float
    difference: float

    @property
    def agreement_sentence(self) -> str:
        """Say how far the answers are those of the fp32 model."""
        if self.numbers:
            return f"the numbers of {self.texts} dev texts correlate with the fp32 model's at {self.agreement:.4f}"
        return f"{100 * self.agreement:.2f}% of the answers to {self.texts} dev texts are those of the fp32 model"

    @property
    def difference_sentence(self) -> str:
        """Say how far probabilities or numbers are from those of what ships."""
        value = "number" if self.numbers else "probability"
        return f"the largest difference of a {value} from what ships was {self.difference:.3f}"


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
    kind = KINDS[student.card.kind]
    rows = student.tokenizer.encode_batch_fast(list(texts))
    written, exact = (_logits(compute, rows, student.card) for compute in (run, onnx_run(source.fp32)))
    shipped = student.logits(texts)
    differences = np.abs(written - shipped)
    if not kind.one_output:
        temperature = student.card.temperature
        differences = np.abs(kind.probabilities(written, 1.0) - kind.probabilities(shipped, temperature))
    # A comparison of NaN would pass for an answer.
    agreement = kind.scoring.agreement(exact, written) if np.isfinite(written).all() else 0.0
    check = LabelCheck(len(texts), kind.one_output, agreement, float(differences.max()))
    if not agreement >= LEAST_AGREEMENT:  # the correlation of equal numbers is NaN
        raise ParityError(
            f"{check.agreement_sentence}, under {100 * LEAST_AGREEMENT:g}%, so nothing was written; {advice}"
        )
    return check


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
