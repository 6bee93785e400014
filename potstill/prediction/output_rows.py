"""Writes rows with their answers in the format of the output: Parquet, JSON lines or CSV."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.data.formats.columnar import UNREADABLE, is_readable
from potstill.errors import FormatError
from potstill.prediction.object_rows import value_of
from potstill.prediction.row_batches import LINE

OutputFormat = Literal["parquet", "jsonl", "csv"]
_FORMATS: dict[str, OutputFormat] = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
# How a cell begins that a spreadsheet takes for a formula (OWASP, "CSV Injection"); the last four are of full width.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
# Without a name or a sign of an operation, so that it computes nothing.
_SIGNED_NUMBER = re.compile(r"[+-][\d.,]+([eE][+-]?\d+)?%?")


def output_format(output: Path) -> OutputFormat:
    """Tell the format of the output by its suffix.

    Raises:
        FormatError: the suffix names none.
    """
    file_format = _FORMATS.get(output.suffix.lower())
    if file_format is None:
        raise FormatError(f"{output}: the suffix names no format to write; it has to be one of {', '.join(_FORMATS)}")
    return file_format


@dataclass(frozen=True)
class OutputRows:
    """Rows of the output.

    Attributes:
        format: the format of the output.
        columns: the columns that are passed on; None: all keys of JSON lines, which then may differ.
        added: the columns of the answers.
        chosen: whether the user has chosen the columns, so that other keys of JSON lines are left out.
        escape_formulas: whether a text of CSV that a spreadsheet takes for a formula gets an apostrophe before it.
    """

    format: OutputFormat
    columns: tuple[str, ...] | None
    added: tuple[str, ...]
    chosen: bool = False
    escape_formulas: bool = False

    def header(self) -> bytes:
        """Encode what comes before the first row."""
        return self._csv([[*(self.columns or ()), *self.added]]) if self.format == "csv" else b""

    def encode(self, rows: pa.Table, answers: pa.Table) -> bytes:
        """Encode rows with their answers.

        Args:
            rows: rows of a window, with the columns that are passed on.
            answers: their answers, from `AnswerColumns.table`.

        Raises:
            FormatError: rows do not fit the format: values of several types, objects without keys, keys that the others
                lack, a key with the name of an added column, or a date that only Parquet holds.
        """
        if self.format == "parquet":
            passed = self._typed(self._objects(rows)) if LINE in rows.column_names else rows
            buffer = pa.BufferOutputStream()
            try:
                pq.write_table(_side_by_side(passed, answers), buffer)
            except pa.ArrowNotImplementedError as error:  # a type without a form in Parquet, such as that of {}
                raise FormatError(
                    f"a column cannot be written as Parquet ({str(error).partition('. ')[0]}); write JSON lines (--out "
                    "with .jsonl), or leave the column out with --columns"
                ) from error
            return bytes(buffer.getvalue())
        objects = self._objects(rows) if LINE in rows.column_names else _plain_rows(rows) or [{}] * len(answers)
        records = [passed | answer for passed, answer in zip(objects, answers.to_pylist(), strict=True)]
        if self.format == "csv":
            names = [*(self.columns or ()), *self.added]
            return self._csv([[cell(record.get(name)) for name in names] for record in records])
        return "".join(f"{_json(record)}\n" for record in records).encode()

    def _csv(self, rows: Sequence[Sequence[str]]) -> bytes:
        lines = (",".join(_field(text, escape=self.escape_formulas) for text in row) for row in rows)
        return "".join(f"{line}\n" for line in lines).encode()

    def _objects(self, rows: pa.Table) -> list[dict[str, Any]]:
        """Read JSON lines again, with the keys that are passed on."""
        objects: list[dict[str, Any]] = [json.loads(line) for line in rows.column(LINE).to_pylist()]
        if self.columns is not None and self.chosen:
            return [_chosen(value, self.columns) for value in objects]
        for name in dict.fromkeys(name for value in objects for name in value):
            if name in self.added:
                raise name_taken(name)
            if self.columns is not None and name not in self.columns:
                raise FormatError(
                    f"a line has the key {name!r}, which the first lines lack, so that there is no column for it; "
                    "write JSON lines (--out with .jsonl), or name the columns with --columns"
                )
        return objects

    def _typed(self, objects: Sequence[dict[str, Any]]) -> pa.Table:
        """Give a type to each key of objects."""
        columns = {}
        for name in self.columns or dict.fromkeys(name for value in objects for name in value):
            try:
                columns[name] = pa.array([value.get(name) for value in objects])
            except (pa.ArrowException, OverflowError) as error:
                raise several_types(name) from error
        return pa.table(columns)


def name_taken(name: str) -> FormatError:
    """Return the error for a column of the input with the name of an added one."""
    return FormatError(
        f"the input has a column {name!r}, which the answers would add; set predict.prefix in params.yaml to another "
        "start of such names, or leave the column out with --columns"
    )


def several_types(name: str) -> FormatError:
    """Return the error for a key of JSON lines whose values have no type in common."""
    return FormatError(
        f"the values of {name!r} are of several types, which a column of Parquet cannot hold; write JSON lines "
        "(--out with .jsonl), or leave the column out with --columns"
    )


def _chosen(value: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Look up those keys, or dotted paths, that an object has."""
    items = ((name, value_of(value, name)) for name in names)
    return {name: item for name, item in items if item is not None or name in value}


def _plain_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Convert rows to plain values."""
    try:
        objects: list[dict[str, Any]] = rows.to_pylist()
    except UNREADABLE as error:
        name = next(name for name in rows.column_names if not all(map(is_readable, rows.column(name))))
        raise FormatError(
            f"a value of {name!r} cannot be written as text ({error}); write Parquet (--out with .parquet), or leave "
            "the column out with --columns"
        ) from error
    return objects


def _side_by_side(left: pa.Table, right: pa.Table) -> pa.Table:
    arrays = [*left.columns, *right.columns]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*left.schema, *right.schema]))


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:  # JSON has no NaN and no infinity
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """Write a value of Parquet that JSON has not: times in ISO 8601, bytes in base 64, the rest as text."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cell(value: Any) -> str:
    """Write a value as text: a text as it is, nothing for a missing value, JSON for lists, objects and truth values."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return _json(value) if isinstance(value, (dict, list, tuple, bool)) else str(_plain(value))


def _field(text: str, *, escape: bool) -> str:
    """Quote a text for CSV where it needs it (RFC 4180), and always if a spreadsheet may take it for a formula.

    Python's `csv` cannot quote single fields, and leaves a carriage return bare.
    """
    formula = text.startswith(_FORMULA)
    if formula and escape and not _SIGNED_NUMBER.fullmatch(text):
        text = f"'{text}"
    if formula or "," in text or '"' in text or "\n" in text or "\r" in text:
        return '"' + text.replace('"', '""') + '"'
    return text
