"""Reads rows whose labels are character positions in their text: entities, and answers to questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.config.prepare_params import LabelAnswers, LabelSpans, LabelTags, LabelWords, MarkLabel
from potstill.data.cleaning import clean
from potstill.data.formats.cells import is_nested, parse_nested
from potstill.data.formats.schemes import Scheme, scheme_of
from potstill.data.formats.tabular import Table
from potstill.data.formats.tagged import TaggedText, rebuild_text, tag_slash_words, tag_spans, tag_text, tag_words
from potstill.errors import LabelError
from potstill.labels.names import Value
from potstill.labels.tags import TaggedUnit, Unit, units_of


@dataclass(frozen=True)
class LabelledText:
    """A cleaned text, or pair of texts, with its label.

    Attributes:
        text: the text, or the question.
        text_pair: the second text, or the question's context; None for single texts.
        label: for entities the text's units with their BIO2 tags, for questions the answers as characters of the
            context, for other tasks a value. None for a row without a label.
    """

    text: str
    text_pair: str | None
    label: Value | None


def read_annotated_rows(
    table: Table, columns: tuple[str, str | None], label: MarkLabel, marked: Sequence[bool]
) -> tuple[list[LabelledText], list[str]]:
    """Read the rows of a table, and say in notes how their marks were read.

    Args:
        table: the table.
        columns: the column of texts, words or questions, and the column of contexts.
        label: where the marks are.
        marked: [rows] whether to read the marks of each row. A column of words may hold a text where this is False.

    Raises:
        MissingColumnError: no such column.
        LabelError: marks of another form, or marks that do not match the text.
    """
    first, second = columns
    if isinstance(label, LabelTags):
        return _tagged_word_rows(table, first, label, marked)
    if isinstance(label, LabelSpans | LabelWords):
        return [_labelled_text(row) for row in _tagged_rows(table, first, label, marked)], []
    assert isinstance(label, LabelAnswers)
    assert second is not None  # params name two columns
    rows = zip(table.texts(first), table.texts(second), _marks(table, label.column, marked), marked, strict=True)
    return [
        read_question(question, context, parse_nested(answers) if has_mark else None, table.row_location(row), has_mark)
        for row, (question, context, answers, has_mark) in enumerate(rows)
    ], []


def _marks(table: Table, column: str, marked: Sequence[bool]) -> list[Any]:
    """The column of marks. A table without marked rows may lack it."""
    return table.column(column) if any(marked) else [None] * len(table)


# --- entities ---------------------------------------------------------------------------------------------------------


def _labelled_text(row: TaggedText) -> LabelledText:
    if row.tags is None:
        return LabelledText(row.text, None, None)
    units = tuple(TaggedUnit(*unit, tag) for unit, tag in zip(row.units, row.tags, strict=True))
    return LabelledText(row.text, None, units)


def _tagged_rows(table: Table, column: str, label: LabelSpans | LabelWords, marked: Sequence[bool]) -> list[TaggedText]:
    texts = table.texts(column)
    if isinstance(label, LabelWords):
        return [
            tag_slash_words(text, label, table.row_location(row)) if marked[row] else tag_text(text)
            for row, text in enumerate(texts)
        ]
    spans = _marks(table, label.column, marked)
    return [
        tag_spans(text, parse_nested(spans[row]), table.row_location(row)) if marked[row] else tag_text(text)
        for row, text in enumerate(texts)
    ]


def _tagged_word_rows(
    table: Table, column: str, label: LabelTags, marked: Sequence[bool]
) -> tuple[list[LabelledText], list[str]]:
    words = table.column(column)
    tags = _tags(table, label) if any(marked) else [None] * len(table)
    scheme = label.scheme
    if scheme == "auto":
        tag_lists = [row for row, has_mark in zip(tags, marked, strict=True) if has_mark and isinstance(row, list)]
        scheme = scheme_of([[tag for tag in row if isinstance(tag, str)] for row in tag_lists])
    rows = [
        _labelled_text(_tag_row(words[row], tags[row], label, scheme, table.row_location(row), marked[row]))
        for row in range(len(table))
    ]
    return rows, [] if scheme == "BIO2" else [f"the tags are {scheme}; they were converted to BIO2"]


def _split_cell(value: Any) -> Any:
    """Read a cell of words or tags: a list, a list written as text, or a text with white space between the items."""
    value = parse_nested(value)
    return value.split() if isinstance(value, str) else value


def _tags(table: Table, label: LabelTags) -> list[Any]:
    """Read the column of tags. Integers become the names that params or the data's own schema give them."""
    names = label.names or table.class_names.get(label.column) or []
    by_number = {key: name for number, name in enumerate(names) for key in (number, str(number))}
    return [
        [tag if is_nested(tag) else by_number.get(tag, str(tag)) for tag in tags]
        if isinstance(tags, (list, tuple))
        else tags
        for tags in map(_split_cell, table.column(label.column))
    ]


def _tag_row(words: Any, tags: Any, label: LabelTags, scheme: Scheme, location: str, marked: bool) -> TaggedText:
    if not marked:
        if isinstance(words, str) or words is None:
            return tag_text(words)
        return tag_words(words, None, scheme, label.between, location)
    if tags is None:
        raise LabelError(
            f"{location} has no tags in column {label.column!r}; tag it, remove it, give its file `split: transfer` in "
            "prepare.tables, or set prepare.unlabelled"
        )
    return tag_words(_split_cell(words), tags, scheme, label.between, location)


# --- answers ----------------------------------------------------------------------------------------------------------


def read_question(question: Any, context: Any, answers: Any, location: str, marked: bool) -> LabelledText:
    """Clean a question and its context, and locate its answers in the cleaned context.

    Raises:
        LabelError: answers of another form than SQuAD's, or not where their starts say.
    """
    raw = "" if context is None else str(context)
    spans = _answer_spans(raw, answers, location) if marked else []
    units = units_of(raw, {edge for span in spans for edge in span})
    text, cleaned_units = rebuild_text(raw, units)
    label = dict.fromkeys(_move_span(span, units, cleaned_units, location) for span in spans)
    return LabelledText(clean(question), text, tuple(label) if marked else None)


def _answer_spans(context: str, answers: Any, location: str) -> list[Unit]:
    """Find the characters of each answer in the context."""
    if isinstance(answers, list) and all(isinstance(answer, Mapping) for answer in answers):
        answers = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
    if not isinstance(answers, Mapping) or not all(
        isinstance(answers.get(key), (list, tuple)) for key in ("text", "answer_start")
    ):
        raise LabelError(
            f"{location}: the answers are {str(answers)[:60]!r}; write "
            '{"text": ["Paris"], "answer_start": [17]}, both empty where the context has no answer'
        )
    texts, starts = answers["text"], answers["answer_start"]
    if len(texts) != len(starts):
        raise LabelError(f"{location} has {len(texts)} answers and {len(starts)} starts; give each answer one")
    spans = []
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not isinstance(start, int) or not text.strip():
            raise LabelError(f"{location}: the answer {text!r:.60} at {start!r:.20} is no text with a start")
        if start < 0 or context[start : start + len(text)] != text:
            raise LabelError(
                f"{location}: the answer {text[:60]!r} is not at character {start} of its context, where "
                f"{context[max(start, 0) : max(start, 0) + len(text)][:60]!r} is; correct answer_start"
            )
        spans.append(Unit(start, start + len(text)))
    return spans


def _move_span(span: Unit, units: Sequence[Unit], cleaned_units: Sequence[Unit | None], location: str) -> Unit:
    """Find the characters of a span in the cleaned context."""
    within = [
        cleaned
        for unit, cleaned in zip(units, cleaned_units, strict=True)
        if cleaned is not None and span.start <= unit.start and unit.end <= span.end
    ]
    if not within:
        raise LabelError(f"{location}: nothing is left of the answer at {span.start} after cleaning; remove it")
    return Unit(within[0].start, within[-1].end)
