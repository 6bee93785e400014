"""Gold labels as the teacher sees them, where the student reads other tokens than it."""

from __future__ import annotations

from pathlib import Path

from potstill.data.tokenization import load_tokenizer
from potstill.data.windows import TextWindower
from potstill.evaluation.marks import GoldTags, read_tags
from tasks.learning import student_tokens, tokenizer_folder, tokens_info
from tasks.stage import Stage


def teachers_view(stage: Stage, path: Path) -> GoldTags | None:
    """The gold entities of a labelled split of `data/prepared` in the teacher's tokens; None where all read the same.

    Args:
        stage: receives `data/tokens`.
        path: the split.
    """
    info = tokens_info(stage)
    if info["task"] != "token_classification" or student_tokens(stage) == stage.deps["tokens"]:
        return None
    tokenizer = load_tokenizer(tokenizer_folder(stage), info["max_length"])
    return read_tags(path, TextWindower(tokenizer, info["max_length"], info["stride"]), info["labels"])
