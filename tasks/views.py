"""Gold labels in the teacher's tokens, where the student reads other tokens than the teacher."""

from __future__ import annotations

from pathlib import Path

from potstill.config.base import OF_PLACES
from potstill.data.tokens.tokenization import load_tokenizer
from potstill.data.tokens.windows import TextWindower, Windower
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags, read_answers, read_tags
from tasks.learning import student_tokens, tokenizer_folder, tokens_info
from tasks.stage import Stage


def teachers_view(stage: Stage, path: Path) -> GoldTags | GoldAnswers | None:
    """Read the gold entities or answers of a labelled split of `data/prepared` in the teacher's tokens.

    Args:
        stage: receives `data/tokens`.
        path: the split.

    Returns:
        The gold labels; None where teacher and student read the same tokens, or the task labels whole texts.
    """
    info = tokens_info(stage)
    if info["task"] not in OF_PLACES or student_tokens(stage) == stage.deps["tokens"]:
        return None
    window_settings = (load_tokenizer(tokenizer_folder(stage), info["max_length"]), info["max_length"], info["stride"])
    if info["task"] == "token_classification":
        return read_tags(path, TextWindower(*window_settings), info["labels"])
    windower = Windower(*window_settings)
    train = info["splits"]["train"]
    no_answer = train["questions"] > train["answers"]
    return read_answers(path, lambda rows: windower(*map(list, zip(*rows, strict=True))), no_answer=no_answer)
