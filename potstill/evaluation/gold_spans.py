"""Gold labels that are spans of a text: gold entities and gold answers, and the tokens and windows that cover them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from potstill.data.tokens.marking import row_units
from potstill.labels.offsets import OWN, Ints, has_own_token, unit_classes, unit_states
from potstill.labels.tags import Unit, entities_of, types_named
from potstill.scores import answers
from potstill.scores.entities import EntityCounts, count_entities, library_scores, tags_by_row
from potstill.scores.metrics import Floats
from potstill.scores.statistics import Moments

if TYPE_CHECKING:
    from potstill.inference.runtime import Student
    from potstill.labels.windows import TextWindow, Window

# Cuts texts with their units into windows.
Cut: TypeAlias = "Callable[[Sequence[str], Sequence[Sequence[Unit]]], list[list[TextWindow]]]"
# Cuts questions with their contexts into windows.
CutQuestions: TypeAlias = "Callable[[Sequence[tuple[str, str]]], list[list[Window]]]"


@dataclass(frozen=True)
class GoldTags:
    """Gold entities of texts, and the tokens that answer for their units.

    Units without a token count as well: an entity there is one that was not found.

    Attributes:
        texts: [rows].
        units: [rows] units of each text.
        classes: [all units] gold classes, row after row.
        visibility: [all units] OWN, SHARED or CUT: whether a unit has a token of its own.
        names: tags in class-index order.
    """

    texts: list[str]
    units: list[list[Unit]]
    classes: Ints
    visibility: Ints
    names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def lengths(self) -> Ints:
        """[rows] how many units each text has."""
        return np.array([len(units) for units in self.units], dtype=np.int64)

    @property
    def token_classes(self) -> Ints:
        """[answers] gold classes of the units with a token of their own."""
        classes: Ints = self.classes[self.visibility == OWN]
        return classes

    def answers_by_row(self, values: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Split values [answers, ...] into those of each row."""
        rows = np.repeat(np.arange(len(self)), self.lengths)[self.visibility == OWN]
        ends = np.cumsum(np.bincount(rows, minlength=len(self)))
        return np.split(values, ends[:-1])

    def counts(self, predictions: Ints) -> EntityCounts:
        """Count gold, predicted and matching entities of predicted classes [answers]."""
        return count_entities(
            self.classes, unit_classes(predictions, self.visibility), self.lengths, len(types_named(self.names))
        )

    def moments(self, logits: Floats) -> Moments:
        """Score logits [answers, classes]."""
        return self.counts(logits.argmax(axis=1)).moments()

    def library_scores(self, logits: Floats) -> dict[str, float]:
        """Return `precision`, `recall` and `f1` of logits [answers, classes] by `seqeval`."""
        predicted = unit_classes(logits.argmax(axis=1), self.visibility)
        return library_scores(
            *(tags_by_row(classes, self.lengths, self.names) for classes in (self.classes, predicted))
        )

    def entity_texts(self, classes: Ints) -> list[str]:
        """Write the entities of classes [all units] for a reader, row by row: `LOC New York; PER Ann`."""
        rows = zip(self.texts, self.units, tags_by_row(classes, self.lengths, self.names), strict=True)
        return [
            "; ".join(f"{kind} {text[units[a].start : units[b - 1].end]}" for kind, a, b in entities_of(tags)) or "none"
            for text, units, tags in rows
        ]


def read_tags(path: Path, cut: Cut, names: Sequence[str]) -> GoldTags:
    """Read the gold entities of a labelled split of `data/prepared`, in the windows that a model reads.

    Args:
        path: the split.
        cut: a `TextWindower` of `labels.windows`, or `Student.text_windows`.
        names: tags in class-index order.
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["text", "label"])
    texts: list[str] = rows.column("text").to_pylist()
    tagged = [row_units(text, entities) for text, entities in zip(texts, rows.column("label").to_pylist(), strict=True)]
    units = [row for row, _ in tagged]
    empty = np.empty(0, dtype=np.int64)
    windows = [window for row in cut(texts, units) for window in row]
    return GoldTags(
        texts,
        units,
        np.concatenate([empty, *(np.array(tags, dtype=np.int64) for _, tags in tagged)]),
        np.concatenate([empty, *(unit_states(window.tokens) for window in windows)]),
        [str(name) for name in names],
    )


def tag_logits(student: Student, texts: Sequence[str], units: Sequence[Sequence[Unit]]) -> Floats:
    """Return the serving runtime's logits [answers, classes] for given units of some texts, row after row."""
    parts = [np.empty((0, len(student.card.labels)), dtype=np.float32)]
    windows = [window for row in student.text_windows(texts, units) for window in row]
    for window, logits in zip(windows, student.compute(windows), strict=True):
        parts.append(logits[window.tokens[has_own_token(window.tokens)]])
    return np.concatenate(parts)


@dataclass(frozen=True)
class GoldAnswers:
    """Gold answers to questions, and the windows in which models read their contexts.

    Attributes:
        questions: [rows] question and context.
        gold: [rows] gold answers; an empty list where the context has no answer.
        windows: [rows] windows of each context.
        no_answer: whether a model may say that there is no answer.
    """

    questions: list[tuple[str, str]]
    gold: list[list[str]]
    windows: list[list[Window]]
    no_answer: bool

    def __len__(self) -> int:
        return len(self.questions)

    def answers(self, logits: npt.NDArray[Any]) -> list[str]:
        """Return the answer [rows] of logits ([windows] objects [tokens, 2]); empty where there is none."""
        from potstill.inference.runtime import windowed_work
        from potstill.kinds.definitions.question_answering import reply

        def answer(row: int, window_logits: list[Floats]) -> str:
            _, context = self.questions[row]
            return reply(context, self.windows[row], window_logits, no_answer=self.no_answer).answer or ""

        return windowed_work(self.windows, answer).finish(list(logits))

    def moments(self, logits: npt.NDArray[Any]) -> Moments:
        """Score logits, [windows] objects [tokens, 2]."""
        return answers.moments(self.answers(logits), self.gold)


def read_answers(path: Path, cut: CutQuestions, *, no_answer: bool) -> GoldAnswers:
    """Read the gold answers of a labelled split of `data/prepared`, in the windows that a model reads.

    Args:
        path: the split.
        cut: a `Windower` of `labels.windows` for pairs, or `Student.windows`.
        no_answer: whether a model may say that there is no answer.
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["text", "text_pair", "label"])
    questions = list(zip(rows.column("text").to_pylist(), rows.column("text_pair").to_pylist(), strict=True))
    spans = rows.column("label").to_pylist()
    gold = [[context[a:b] for a, b in row] for (_, context), row in zip(questions, spans, strict=True)]
    return GoldAnswers(questions, gold, cut(questions), no_answer)
