"""Gold labels in the teacher's tokens, for a student with another tokenizer."""

from __future__ import annotations

from pathlib import Path

from potstill.evaluation.gold_spans import GoldAnswers, GoldTags, read_answers, read_tags
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.labels.windows import TextWindower, Windower
from tasks.learning import open_tokens
from tasks.stage import Stage


def teachers_view(stage: Stage, path: Path) -> GoldTags | GoldAnswers | None:
    """Read the gold entities or answers of a labelled split of `data/prepared` in the teacher's tokens.

    Args:
        stage: receives `data/tokens`.
        path: the split.

    Returns:
        The gold labels; None where teacher and student read the same tokens, or the task labels whole texts.
    """
    tokens = open_tokens(stage)
    info = tokens.info
    if not KINDS[tokens.task].marks_spans or tokens.student is tokens:
        return None
    window_settings = (tokens.load_tokenizer(), info["max_length"], info["stride"])
    if KINDS[info["task"]].form == "entities":
        return read_tags(path, TextWindower(*window_settings), info["labels"])
    windower = Windower(*window_settings)
    train = info["splits"]["train"]
    no_answer = train["questions"] > train["answers"]
    return read_answers(path, lambda rows: windower(*map(list, zip(*rows, strict=True))), no_answer=no_answer)
