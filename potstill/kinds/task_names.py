"""The names of the kinds of task, as params give them."""

from __future__ import annotations

from typing import Literal

TaskKind = Literal[
    "single_label",
    "multi_label",
    "regression",
    "token_classification",
    "question_answering",
]
