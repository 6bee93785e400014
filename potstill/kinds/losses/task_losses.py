"""The registry of the losses of each kind of task."""

from __future__ import annotations

from potstill.kinds.losses.head_loss import HeadLoss
from potstill.kinds.losses.multi_label_loss import MULTI_LABEL
from potstill.kinds.losses.question_answering_loss import QUESTION_ANSWERING
from potstill.kinds.losses.regression_loss import REGRESSION
from potstill.kinds.losses.single_label_loss import SINGLE_LABEL
from potstill.kinds.losses.token_classification_loss import TOKEN_CLASSIFICATION
from potstill.kinds.task_names import TaskKind

HEAD_LOSSES: dict[TaskKind, HeadLoss] = {
    "single_label": SINGLE_LABEL,
    "multi_label": MULTI_LABEL,
    "regression": REGRESSION,
    "token_classification": TOKEN_CLASSIFICATION,
    "question_answering": QUESTION_ANSWERING,
}
