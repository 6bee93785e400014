"""Reads the rows of JSON lines in batches.

They keep their form: the rows of a batch are one column `LINE`, because a key may have a value of another type in each.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from potstill.data.formats.cells import value_at_path
from potstill.prediction.input_files import InputFile, open_input
from potstill.prediction.row_batches import (
    BATCH,
    LINE,
    NOT_UTF8,
    Batch,
    NumberedRows,
    Rejected,
    Selection,
    is_utf8,
    joined,
)

# First objects of a file whose keys are its columns.
_FIRST_OBJECTS = 100
# The longest line, in bytes.
_MAX_LINE = 2**24


def object_keys(file: InputFile) -> list[str] | None:
    """Read the keys of the first objects of a file; None: it is empty."""
    with open_input(file) as opened:
        lines = itertools.islice(_json_lines(opened.stream), _FIRST_OBJECTS)
        parsed = [_parse(content) for _, content in lines]
    if not parsed:
        return None
    return list(dict.fromkeys(key for value in parsed if isinstance(value, dict) for key in value))


def read_object_rows(file: InputFile, selection: Selection) -> Iterator[Batch]:
    """Read a file of JSON lines; see `input_rows.read_batches`."""

    def finish(batch: NumberedRows, position: float) -> Batch:
        texts = joined([[value_of(value, name) for _, value in batch.rows] for name in selection.texts])
        indices, texts = batch.keep(texts, selection)
        lines = [batch.rows[index][0] for index in indices]
        return Batch(pa.table({LINE: pa.array(lines, pa.string())}), texts, batch.rejected, position)

    with open_input(file) as opened:
        batch = NumberedRows()
        for row, (line, content) in enumerate(_json_lines(opened.stream), start=1):
            value = _parse(content)
            if isinstance(value, str):
                batch.rejected.append(Rejected(row, line, value))
            else:
                batch.add(row, line, (content.decode(), value))
            if len(batch) == BATCH:
                yield finish(batch, opened.position)
                batch = NumberedRows()
        yield finish(batch, opened.position)


def _json_lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each line that is not blank. Of a longer line than the limit only a part is kept."""
    number = 0
    while content := stream.readline(_MAX_LINE):
        number += 1
        part = content
        while len(part) == _MAX_LINE and not part.endswith(b"\n"):
            part = stream.readline(_MAX_LINE)
        if number == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if content.strip():
            yield number, content.strip()


def _parse(content: bytes) -> dict[str, Any] | str:
    """Parse a line as an object; the reason if it is none."""
    if len(content) >= _MAX_LINE - 2:
        return f"a line of {_MAX_LINE:,} bytes or more"
    try:
        text = content.decode()
        value = json.loads(text)
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, RecursionError) as error:
        return f"a broken line: not JSON ({error})"
    if not isinstance(value, dict):
        return f'a broken line: {type(value).__name__}, not an object such as {{"text": ...}}'
    if "\\u" in text and not is_utf8(json.dumps(value, ensure_ascii=False)):
        return NOT_UTF8
    return value


def value_of(row: dict[str, Any], name: str) -> Any:
    """Look up a key, or a dotted path into the object."""
    return row[name] if name in row else value_at_path(row, name.split("."))
