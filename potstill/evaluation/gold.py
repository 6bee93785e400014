"""The gold labels of a split in the form that its task is scored by, and a served student's logits on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.data.tokens.batches import ragged
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags, read_answers, read_tags, tag_logits
from potstill.evaluation.summary import Gold
from potstill.evaluation.texts import read_texts

if TYPE_CHECKING:
    from potstill.inference.runtime import Student, Text

WHOLE = slice(None)


def read_gold(path: Path, student: Student) -> tuple[Sequence[Text], Gold]:
    """Read the texts [rows] of a labelled split of `data/prepared`, as users would send them, and its gold labels.

    Args:
        path: the split.
        student: tells the task and, for spans of a text, how texts are cut into windows.
    """
    if student.card.form == "entities":
        tags = read_tags(path, student.text_windows, [str(name) for name in student.card.labels])
        return tags.texts, tags
    if student.card.form == "span":
        answers = read_answers(path, student.windows, no_answer=student.card.no_answer)
        return answers.questions, answers
    return read_texts(path)


def student_logits(student: Student, texts: Sequence[Text], gold: Gold, part: slice = WHOLE) -> Any:
    """Compute a served student's logits over some of the texts, in the form of `predict_logits`."""
    if isinstance(gold, GoldTags):
        return tag_logits(student, gold.texts[part], gold.units[part])
    if isinstance(gold, GoldAnswers):
        return ragged(student.read_windows([window for windows in gold.windows[part] for window in windows]))
    return student.logits(texts[part])
