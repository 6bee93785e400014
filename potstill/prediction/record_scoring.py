"""Answers the records of a stream: an entry for each, with its fields and the answer, or with what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from potstill.inference.profile import Observation
from potstill.inference.runtime import Student
from potstill.prediction.answer_columns import AnswerColumns
from potstill.prediction.answer_memory import AnswerMemory
from potstill.prediction.output_rows import cell
from potstill.prediction.redis_streams import Fields, Record, Reply
from potstill.prediction.row_batches import NOT_UTF8, Selection, text_problem
from potstill.prediction.window_scoring import answer_texts

# Most fields of a record: a script of Redis takes no more than 8,000 arguments.
_MAX_FIELDS = 1000


class ScoredRecord(NamedTuple):
    """The reply to a record, and what the model has read and answered: None for a record that is put aside."""

    reply: Reply
    observation: Observation | None


class RecordScorer:
    """A student that answers records.

    Args:
        student: the student.
        columns: names and values of what an answer adds to a record.
        selection: the fields that are read and passed on.
        location: of the stream, as the records that are put aside name it.
    """

    def __init__(self, student: Student, columns: AnswerColumns, selection: Selection, location: str) -> None:
        self._memory = AnswerMemory(student)
        self._columns = columns
        self._selection = selection
        self._location = location
        self._id_name = f"{columns.prefix}record"
        self._added = {name.encode() for name in (*columns.schema.names, self._id_name)}

    def score(self, records: Sequence[Record]) -> list[ScoredRecord]:
        """Answer records, in their order; equal texts are computed once."""
        texts = [self._text(record) for record in records]
        problems = [self._problem(record, text) for record, text in zip(records, texts, strict=True)]
        answerable = [text for text, problem in zip(texts, problems, strict=True) if problem is None]
        observed, table = answer_texts(self._memory, self._columns, answerable)
        answers = zip(observed, table.to_pylist(), strict=True)
        return [
            self._answered(record, *next(answers)) if problem is None else self._rejected(record, problem)
            for record, problem in zip(records, problems, strict=True)
        ]

    def _text(self, record: Record) -> Any:
        """Read the text, or both of a pair: None for one that is not there, bytes for one that is not UTF-8."""
        values = [_decoded(record.fields.get(name.encode())) for name in self._selection.texts]
        return values[0] if len(values) == 1 else tuple(values)

    def _problem(self, record: Record, text: Any) -> str | None:
        """Say why a record cannot be answered; None if it can."""
        if isinstance(text, bytes) or (isinstance(text, tuple) and any(isinstance(part, bytes) for part in text)):
            return NOT_UTF8
        if len(record.fields) > _MAX_FIELDS:
            return f"{len(record.fields):,} fields; at most {_MAX_FIELDS:,}"
        taken = next((name for name in self._passed(record) if name in self._added), None)
        if taken is not None:
            return f"a field {taken.decode()!r}, which the answers add; predict.prefix changes their names"
        return text_problem(text, self._selection)

    def _passed(self, record: Record) -> Fields:
        """Select the fields that are passed on, as they are."""
        if self._selection.columns is None:
            return record.fields
        names = [name.encode() for name in self._selection.columns]
        return {name: record.fields[name] for name in names if name in record.fields}

    def _answered(self, record: Record, observation: Observation, answer: dict[str, Any]) -> ScoredRecord:
        added = {name.encode(): cell(value).encode() for name, value in answer.items()}
        fields = {**self._passed(record), **added, self._id_name.encode(): record.id}
        return ScoredRecord(Reply(record.id, fields, rejected=False), observation)

    def _rejected(self, record: Record, problem: str) -> ScoredRecord:
        """Put a record aside, with as many of its fields as an entry may have."""
        why = {b"stream": self._location.encode(), b"record": record.id, b"reason": problem.encode()}
        fields = {name + b"_" * (name in why): value for name, value in list(record.fields.items())[:_MAX_FIELDS]}
        return ScoredRecord(Reply(record.id, {**fields, **why}, rejected=True), None)


def _decoded(value: bytes | None) -> str | bytes | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
