"""The score on dev by which all trainings select their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from potstill.data.tokens.batches import Labels, TokenDataset
from potstill.distillation.teachers.mean_answers import Floats
from potstill.distillation.teachers.predict import predict_logits
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.training.loop import Setting
from potstill.training.selection import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def dev_score(
    task: TaskKind,
    dev: TokenDataset,
    setting: Setting,
    *,
    labels: Labels | None = None,
    teacher_logits: Floats | None = None,
) -> Callable[[PreTrainedModel], Score]:
    """Make the function that scores a model on dev.

    Args:
        task: decides the score.
        dev: the rows.
        setting: of the training.
        labels: what is right, in the form of `TokenDataset.whole_labels`; None: the gold labels of dev.
        teacher_logits: [rows, outputs] the teacher's answers; between equal scores the agreement with them decides.
    """
    scoring = KINDS[task].scoring
    expected = dev.whole_labels if labels is None else labels

    def score(model: PreTrainedModel) -> Score:
        logits = predict_logits(model, dev, precision=setting.precision)
        value = scoring.score(logits, expected)
        return value if teacher_logits is None else (value, scoring.agreement(teacher_logits, logits))

    return score
