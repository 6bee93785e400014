"""What the stages of the student share: its token ids, where they are not the teacher's, and how it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from potstill.config import Distill
from potstill.data.tokenization import KEPT
from potstill.models.student import student_from_layers
from potstill.models.vocabulary import trim_embeddings
from tasks.learning import student_tokens
from tasks.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_student(stage: Stage, parent: PreTrainedModel, layers: Sequence[int] | None = None) -> PreTrainedModel:
    """The student that `distill` describes, with copies of a parent's weights.

    Args:
        stage: receives the section `distill` and `data/tokens`.
        parent: the fine-tuned teacher or an assistant, or for a control the pretrained base.
        layers: of the parent; None: those of `distill`.

    Raises:
        ModelError: see `student_from_layers` and `trim_embeddings`.
    """
    student = student_from_layers(parent, stage.params(Distill).layers if layers is None else layers)
    kept = student_tokens(stage) / KEPT
    return trim_embeddings(student, np.load(kept, allow_pickle=False).tolist()) if kept.exists() else student
