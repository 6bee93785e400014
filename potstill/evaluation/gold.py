"""The texts of a split as users send them, its gold labels as its task is scored by, and a student's logits on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.data.corpus import prepared_texts
from potstill.data.tokens.batches import Labels, label_array, ragged
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags, read_answers, read_tags, tag_logits
from potstill.evaluation.summary import Answers, Gold
from potstill.scores.metrics import require_finite

if TYPE_CHECKING:
    from potstill.inference.runtime import Student, Text

WHOLE = slice(None)


def read_texts(path: Path) -> tuple[list[Text], Labels]:
    """Read texts [rows] (or pairs) and gold labels [rows, ...] of a split of `data/prepared`, in its order."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path)
    return list(prepared_texts(rows)), label_array(rows.column("label"))


def readable(text: Text) -> str:
    """Return one string for a reader, with the two texts of a pair on lines of their own."""
    return text if isinstance(text, str) else "\n".join(text)


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
        return ragged(student.compute([window for windows in gold.windows[part] for window in windows]))
    return student.logits(texts[part])


def served_answers(
    student: Student, texts: Sequence[Text], gold: Gold, name: str, *, parameters: int = 0, file_bytes: int = 0
) -> Answers:
    """Compute a served model's answers, with gold spans in its own tokens or windows.

    Args:
        student: the served model.
        texts: as `read_gold` returns them for this model.
        gold: their gold labels, from the same call.
        name: the model's name, for errors.
        parameters: the model's number of weights, where that is reported.
        file_bytes: size of the model's file, where that is reported.

    Raises:
        ModelError: it answers NaN or infinity.
    """
    logits = student_logits(student, texts, gold)
    require_finite(logits, name)
    own_gold = gold if isinstance(gold, GoldTags | GoldAnswers) else None
    return Answers(logits, student.card.temperature, parameters, file_bytes, student.card.kind, own_gold=own_gold)
