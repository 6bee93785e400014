"""Reads JSON as tables: lines of objects, an array of objects, or an object that holds one such array."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from potstill.data.formats.tabular import Table
from potstill.errors import FormatError

# Keys under which a document may hold its rows.
_ROW_KEYS = ("data", "rows", "records", "examples", "items", "instances")


def read_json(text: str, location: str, file_format: str) -> Table:
    """Read JSON or JSON lines, whichever the text is.

    Raises:
        FormatError: it is no JSON, or holds no objects.
    """
    first, *others = text.strip().split("\n", 1)
    if first[:1] == "[":
        return _read_document(text, location, file_format)
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        value = None
    is_part = first[:1] == "{" and not isinstance(value, dict)
    if is_part or (not others and _holds_rows(value)):
        return _read_document(text, location, file_format)
    return _read_lines(text, location, file_format)


def _pandas_rows(document: Any) -> list[dict[str, Any]] | None:
    """Read the rows of a frame that pandas wrote: {"column": {"0": value, "1": value}}. None: it is no frame."""
    if not isinstance(document, dict) or len(document) < 2:
        return None
    first, *others = document.values()
    if not all(isinstance(column, dict) for column in (first, *others)):
        return None
    if not first or not all(key.isdecimal() for key in first) or any(list(first) != list(other) for other in others):
        return None
    return [{name: values[key] for name, values in document.items()} for key in first]


def rows_table(
    rows: Sequence[dict[str, Any]], location: str, row_numbers: Sequence[int], unit: str, file_format: str
) -> Table:
    """Build a table of objects. A key that a row lacks is None there."""
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return Table(
        location, {name: [row.get(name) for row in rows] for name in names}, row_numbers, unit, format=file_format
    )


def squad_rows(document: Any) -> list[dict[str, Any]] | None:
    """List the questions of a document in SQuAD's form (1.1 or 2.0) with their contexts. None: it has another form."""
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        return None
    articles = document["data"]
    if not articles or not all(
        isinstance(item, dict) and isinstance(item.get("paragraphs"), list) for item in articles
    ):
        return None
    return [
        {
            "id": question.get("id"),
            "title": article.get("title"),
            "question": question.get("question"),
            "context": paragraph.get("context"),
            "answers": _answers(question),
        }
        for article in articles
        for paragraph in article["paragraphs"] or ()
        for question in paragraph.get("qas", ())
    ]


def _answers(question: dict[str, Any]) -> dict[str, list[Any]] | None:
    answers = [] if question.get("is_impossible") else question.get("answers")
    if not isinstance(answers, list):
        return None
    return {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}


def _read_lines(text: str, location: str, file_format: str) -> Table:
    rows: list[dict[str, Any]] = []
    line_numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{location}, line {number} is not JSON ({error}); each line has to be one object"
            ) from error
        if not isinstance(row, dict):
            raise FormatError(
                f'{location}, line {number} is {type(row).__name__}, not an object such as {{"text": ...}}'
            )
        rows.append(row)
        line_numbers.append(number)
    return rows_table(rows, location, line_numbers, "line", file_format)


def _read_document(text: str, location: str, file_format: str) -> Table:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{location} is not JSON ({error}); correct it, or write one object a line") from error
    try:
        questions = squad_rows(document)
    except (AttributeError, TypeError) as error:
        raise FormatError(
            f"{location} looks like SQuAD, but some of its paragraphs, questions or answers are none ({error}); "
            "correct them, or write one object a line"
        ) from error
    if questions is not None:
        table = rows_table(questions, location, range(1, len(questions) + 1), "question", file_format)
        empty = sum(answer is not None and not answer["text"] for answer in table.columns.get("answers", []))
        note = f"SQuAD: {len(table):,} questions, {empty:,} of them without an answer"
        return replace(table, tool="SQuAD").with_notes(note)
    rows = _pandas_rows(document) or _records(document, location)
    wrong = next((index for index, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise FormatError(
            f'{location}, row {wrong + 1} is {type(rows[wrong]).__name__}, not an object such as {{"text": ...}}'
        )
    return rows_table(rows, location, range(1, len(rows) + 1), "row", file_format)


def _records(document: Any, location: str) -> list[Any]:
    """Find the array of rows: the document itself, or the only array in it."""
    if isinstance(document, list):
        return document
    arrays = {name: value for name, value in document.items() if isinstance(value, list)}
    name = next((key for key in _ROW_KEYS if key in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if name is None:
        holds = ", ".join(map(repr, list(document)[:8]))
        raise FormatError(
            f"{location} is one object with {holds or 'nothing'}, not an array of rows; write one object a line, or an "
            'array of objects (with pandas: to_json(orient="records", lines=True))'
        )
    return list(arrays[name])


def _holds_rows(value: Any) -> bool:
    """Whether the only line of a file is not a row, but an object with an array of rows."""
    if _pandas_rows(value) is not None:
        return True
    arrays = [value[key] for key in _ROW_KEYS if isinstance(value.get(key), list)] if isinstance(value, dict) else []
    return any(array and isinstance(array[0], dict) for array in arrays)
