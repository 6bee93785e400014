"""Rows whose labels are places in their text, and are read together with it: entities, and answers to questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.config.prepare_params import LabelAnswers, LabelSpans, LabelTags, LabelWords, MarkLabel
from potstill.data.cleaning import clean
from potstill.data.formats.cells import parsed
from potstill.data.formats.schemes import Scheme, scheme_of
from potstill.data.formats.tabular import Table
from potstill.data.formats.tagged import Tagged, from_spans, from_tagged_words, from_text, from_words, rebuilt
from potstill.errors import LabelError, MissingColumnError
from potstill.labels.tags import TaggedUnit, Unit, units_of


@dataclass(frozen=True)
class Annotated:
    """A cleaned row.

    Attributes:
        text: a text, or a question.
        text_pair: the question's context; else None.
        label: the text's units with their BIO2 tags; or the answers, as characters of the context. None where nobody
            has marked it.
    """

    text: str
    text_pair: str | None
    label: tuple[TaggedUnit, ...] | tuple[Unit, ...] | None


def annotated_rows(
    table: Table, first: str, second: str | None, label: MarkLabel, marked: Sequence[bool]
) -> tuple[list[Annotated], list[str]]:
    """The rows of a table, and notes on how its marks were read.

    Args:
        table: the table.
        first: column of the texts, of their words, or of the questions.
        second: column of the questions' contexts.
        label: where the marks are.
        marked: per row whether its marks are read; where not, a column of words may hold a text instead.

    Raises:
        MissingColumnError: no such column.
        LabelError: marks of another form, or that are not where they are said to be.
    """
    if isinstance(label, LabelTags):
        return _words_with_tags(table, first, label, marked)
    if isinstance(label, LabelSpans | LabelWords):
        return [_with_tags(row) for row in _tagged_rows(table, first, label, marked)], []
    assert isinstance(label, LabelAnswers)
    if second is None:
        raise MissingColumnError(f"{table.where}: its `text` in prepare.tables is one column; name [question, context]")
    questions, contexts = table.texts(first), table.texts(second)
    answers = table.column(label.column) if any(marked) else [None] * len(table)
    rows = [
        asked(
            questions[row], contexts[row], parsed(answers[row]) if marked[row] else None, table.place(row), marked[row]
        )
        for row in range(len(table))
    ]
    return rows, []


# --- entities ---------------------------------------------------------------------------------------------------------


def _with_tags(row: Tagged) -> Annotated:
    if row.tags is None:
        return Annotated(row.text, None, None)
    return Annotated(
        row.text, None, tuple(TaggedUnit(*unit, tag) for unit, tag in zip(row.units, row.tags, strict=True))
    )


def _tagged_rows(table: Table, column: str, label: LabelSpans | LabelWords, marked: Sequence[bool]) -> list[Tagged]:
    texts = table.texts(column)
    if isinstance(label, LabelWords):
        return [
            from_tagged_words(text, label, table.place(row)) if marked[row] else from_text(text)
            for row, text in enumerate(texts)
        ]
    spans = table.column(label.column) if any(marked) else [None] * len(table)
    return [
        from_spans(text, parsed(spans[row]), table.place(row)) if marked[row] else from_text(text)
        for row, text in enumerate(texts)
    ]


def _words_with_tags(
    table: Table, column: str, label: LabelTags, marked: Sequence[bool]
) -> tuple[list[Annotated], list[str]]:
    words = table.column(column)
    tags = _tags(table, label) if any(marked) else [None] * len(table)
    scheme = label.scheme
    if scheme == "auto":
        known = [row for row, use in zip(tags, marked, strict=True) if use and isinstance(row, list)]
        scheme = scheme_of([[tag for tag in row if isinstance(tag, str)] for row in known])
    rows = [
        _with_tags(_of_words(words[row], tags[row], label, scheme, table.place(row), marked[row]))
        for row in range(len(table))
    ]
    return rows, [] if scheme == "BIO2" else [f"the tags are {scheme}; they were converted to BIO2"]


def _listed(value: Any) -> Any:
    """A cell with words or tags: a list, a text of one, or a text with white space between them."""
    value = parsed(value)
    return value.split() if isinstance(value, str) else value


def _tags(table: Table, label: LabelTags) -> list[Any]:
    """The column of tags, with the names of integers that params or the data's own schema give."""
    names = label.names or table.class_names.get(label.column) or []
    by_number = {key: name for number, name in enumerate(names) for key in (number, str(number))}
    return [
        [by_number.get(tag, tag if isinstance(tag, str) else str(tag)) for tag in tags]
        if isinstance(tags, (list, tuple))
        else tags
        for tags in map(_listed, table.column(label.column))
    ]


def _of_words(words: Any, tags: Any, label: LabelTags, scheme: Scheme, where: str, marked: bool) -> Tagged:
    if not marked:
        return (
            from_text(words)
            if isinstance(words, str) or words is None
            else from_words(words, None, scheme, label.between, where)
        )
    if tags is None:
        raise LabelError(
            f"{where} has no tags in column {label.column!r}; tag it, remove it, give its file `split: transfer` in "
            "prepare.tables, or set prepare.unlabelled"
        )
    return from_words(_listed(words), tags, scheme, label.between, where)


# --- answers ----------------------------------------------------------------------------------------------------------


def asked(question: Any, context: Any, answers: Any, where: str, marked: bool) -> Annotated:
    """A question, its context and, where it is marked, the answers as characters of the cleaned context.

    Raises:
        LabelError: answers of another form than SQuAD's, or not where they are said to be.
    """
    raw = "" if context is None else str(context)
    spans = _spans(raw, answers, where) if marked else []
    units = units_of(raw, {place for span in spans for place in span})
    text, places = rebuilt(raw, units)
    found = dict.fromkeys(_moved(span, units, places, where) for span in spans)
    return Annotated(clean(question), text, tuple(found) if marked else None)


def _spans(context: str, answers: Any, where: str) -> list[Unit]:
    """Characters of each answer."""
    if isinstance(answers, list) and all(isinstance(answer, Mapping) for answer in answers):
        answers = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
    if not isinstance(answers, Mapping) or not all(
        isinstance(answers.get(key), (list, tuple)) for key in ("text", "answer_start")
    ):
        raise LabelError(
            f"{where}: the answers are {str(answers)[:60]!r}; write "
            '{"text": ["Paris"], "answer_start": [17]}, both empty where the context has no answer'
        )
    texts, starts = answers["text"], answers["answer_start"]
    if len(texts) != len(starts):
        raise LabelError(f"{where} has {len(texts)} answers and {len(starts)} starts; give each answer one")
    found = []
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or not text.strip():
            raise LabelError(f"{where}: the answer {text!r:.60} at {start!r:.20} is no text with a place")
        if start < 0 or context[start : start + len(text)] != text:
            raise LabelError(
                f"{where}: the answer {text[:60]!r} is not at character {start} of its context, where "
                f"{context[max(start, 0) : max(start, 0) + len(text)][:60]!r} is; correct answer_start"
            )
        found.append(Unit(start, start + len(text)))
    return found


def _moved(span: Unit, units: Sequence[Unit], places: Sequence[Unit | None], where: str) -> Unit:
    """The characters of a span in the cleaned context."""
    within = [
        place
        for unit, place in zip(units, places, strict=True)
        if place is not None and span.start <= unit.start and unit.end <= span.end
    ]
    if not within:
        raise LabelError(f"{where}: nothing is left of the answer at {span.start} after cleaning; remove it")
    return Unit(within[0].start, within[-1].end)
