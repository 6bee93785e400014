"""Gold labels as the teacher sees them, where the student reads other tokens than it."""

from __future__ import annotations

from pathlib import Path

from potstill.config.base import OF_PLACES
from potstill.data.tokens.windows import TextWindower, Windower
from potstill.evaluation.marks import GoldAnswers, GoldTags, read_answers, read_tags
from tasks.learning import open_tokens
from tasks.stage import Stage


def teachers_view(stage: Stage, path: Path) -> GoldTags | GoldAnswers | None:
    """Gold entities or answers of a labelled split of `data/prepared` in the teacher's tokens; None: all read the same.

    Args:
        stage: receives `data/tokens`.
        path: the split.
    """
    tokens = open_tokens(stage)
    info = tokens.info
    if tokens.task not in OF_PLACES or tokens.student is tokens:
        return None
    cuts = (tokens.load_tokenizer(), info["max_length"], info["stride"])
    if info["task"] == "token_classification":
        return read_tags(path, TextWindower(*cuts), info["labels"])
    windower, train = Windower(*cuts), info["splits"]["train"]
    no_answer = train["questions"] > train["answers"]
    return read_answers(path, lambda rows: windower(*map(list, zip(*rows, strict=True))), no_answer=no_answer)
