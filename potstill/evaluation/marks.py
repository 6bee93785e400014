"""What answers that are places in a text are judged by: gold entities, gold answers, and how tokens see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from potstill.data.tokens.marking import row_units
from potstill.data.tokens.offsets import OWN, Ints, has_own_token, unit_classes, unit_states
from potstill.labels.tags import Unit, entities_of, types_named
from potstill.scores import answers
from potstill.scores.entities import EntityCounts, count_entities, library_scores, tags_by_row
from potstill.scores.metrics import Floats
from potstill.scores.statistics import Moments

if TYPE_CHECKING:
    from potstill.data.tokens.windows import TextWindow, Window
    from potstill.inference.runtime import Student

# Cuts texts with their units into windows.
Cut: TypeAlias = "Callable[[Sequence[str], Sequence[Sequence[Unit]]], list[list[TextWindow]]]"
# Cuts questions with their contexts into windows.
CutQuestions: TypeAlias = "Callable[[Sequence[tuple[str, str]]], list[list[Window]]]"


@dataclass(frozen=True)
class GoldTags:
    """Gold entities of texts, and the tokens that speak for their units.

    Units that have no token count: an entity there is one that was not found.

    Attributes:
        texts: [rows].
        units: [rows] units of each.
        classes: [all units] gold classes, row after row.
        seen: [all units] OWN, SHARED or CUT.
        names: tags in class-index order.
    """

    texts: list[str]
    units: list[list[Unit]]
    classes: Ints
    seen: Ints
    names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def lengths(self) -> Ints:
        """[rows] units of each."""
        return np.array([len(units) for units in self.units], dtype=np.int64)

    @property
    def asked(self) -> Ints:
        """[answers] gold classes of the units whose own token answers."""
        found: Ints = self.classes[self.seen == OWN]
        return found

    def answers_by_row(self, values: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """[rows] of the values [answers, ...] each row's."""
        rows = np.repeat(np.arange(len(self)), self.lengths)[self.seen == OWN]
        ends = np.cumsum(np.bincount(rows, minlength=len(self)))
        return np.split(values, ends[:-1])

    def counts(self, predictions: Ints) -> EntityCounts:
        """Entities of the predicted classes [answers]."""
        return count_entities(
            self.classes, unit_classes(predictions, self.seen), self.lengths, len(types_named(self.names))
        )

    def moments(self, logits: Floats) -> Moments:
        """Scores of logits [answers, classes]."""
        return self.counts(logits.argmax(axis=1)).moments()

    def library_scores(self, logits: Floats) -> dict[str, float]:
        """`precision`, `recall` and `f1` of logits [answers, classes], as `seqeval` gives them."""
        predicted = unit_classes(logits.argmax(axis=1), self.seen)
        gold, found = (tags_by_row(classes, self.lengths, self.names) for classes in (self.classes, predicted))
        return library_scores(gold, found)

    def shown(self, classes: Ints) -> list[str]:
        """[rows] the entities of classes [all units], as a reader sees them: `LOC New York; PER Ann`."""
        rows = zip(self.texts, self.units, tags_by_row(classes, self.lengths, self.names), strict=True)
        return [
            "; ".join(f"{kind} {text[units[a].start : units[b - 1].end]}" for kind, a, b in entities_of(tags)) or "none"
            for text, units, tags in rows
        ]


def read_tags(path: Path, cut: Cut, names: Sequence[str]) -> GoldTags:
    """Gold entities of a labelled split of `data/prepared`, in the windows that a model reads.

    Args:
        path: the split.
        cut: a `data.windows.TextWindower`, or `Student.text_windows`.
        names: tags in class-index order.
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["text", "label"])
    texts: list[str] = rows.column("text").to_pylist()
    found = [row_units(text, mark) for text, mark in zip(texts, rows.column("label").to_pylist(), strict=True)]
    units = [row for row, _ in found]
    none = np.empty(0, dtype=np.int64)
    windows = [window for row in cut(texts, units) for window in row]
    return GoldTags(
        texts,
        units,
        np.concatenate([none, *(np.array(tags, dtype=np.int64) for _, tags in found)]),
        np.concatenate([none, *(unit_states(window.tokens) for window in windows)]),
        [str(name) for name in names],
    )


def tag_logits(student: Student, texts: Sequence[str], units: Sequence[Sequence[Unit]]) -> Floats:
    """[answers, classes] logits of the serving runtime for given units of some texts, row after row."""
    parts = [np.empty((0, len(student.card.labels)), dtype=np.float32)]
    windows = [window for row in student.text_windows(texts, units) for window in row]
    for window, logits in zip(windows, student.read_windows(windows), strict=True):
        parts.append(logits[window.tokens[has_own_token(window.tokens)]])
    return np.concatenate(parts)


@dataclass(frozen=True)
class GoldAnswers:
    """Gold answers to questions, and the windows in which models read their contexts.

    Attributes:
        questions: [rows] question and context.
        gold: [rows] gold answers; none where the context has no answer.
        windows: [rows] windows of each.
        no_answer: whether a model may say that there is none.
    """

    questions: list[tuple[str, str]]
    gold: list[list[str]]
    windows: list[list[Window]]
    no_answer: bool

    def __len__(self) -> int:
        return len(self.questions)

    def answers(self, logits: npt.NDArray[Any]) -> list[str]:
        """[rows] the answers of logits, [windows] objects [tokens, 2]; empty: none."""
        from potstill.inference.runtime import reply

        found, start = [], 0
        for (_, context), windows in zip(self.questions, self.windows, strict=True):
            part = list(logits[start : start + len(windows)])
            start += len(windows)
            found.append(reply(context, windows, part, no_answer=self.no_answer).answer or "")
        return found

    def moments(self, logits: npt.NDArray[Any]) -> Moments:
        """Scores of logits, [windows] objects [tokens, 2]."""
        return answers.moments(self.answers(logits), self.gold)


def read_answers(path: Path, cut: CutQuestions, *, no_answer: bool) -> GoldAnswers:
    """Gold answers of a labelled split of `data/prepared`, in the windows that a model reads.

    Args:
        path: the split.
        cut: a `data.windows.Windower` of pairs, or `Student.windows`.
        no_answer: whether a model may say that there is none.
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["text", "text_pair", "label"])
    questions = list(zip(rows.column("text").to_pylist(), rows.column("text_pair").to_pylist(), strict=True))
    marks = rows.column("label").to_pylist()
    gold = [[context[a:b] for a, b in mark] for (_, context), mark in zip(questions, marks, strict=True)]
    return GoldAnswers(questions, gold, cut(questions), no_answer)
