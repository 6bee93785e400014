"""Batches of rows as they are read from a file, and the rules by which a row is put aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from potstill.inference.runtime import Text, characters

# The column of a batch of JSON lines. No CSV file has it, since names of columns are stripped there.
LINE = " line"
# Most rows of a batch.
BATCH = 1024
NOT_UTF8 = "not UTF-8"


@dataclass(frozen=True)
class Selection:
    """The parts of a row that are read.

    Attributes:
        texts: the column of the text, or the two of a pair.
        columns: the columns that are passed on; None: all.
        max_characters: of a text, or of both texts of a pair.
    """

    texts: tuple[str, ...]
    columns: tuple[str, ...] | None
    max_characters: int


class Rejected(NamedTuple):
    """A row that is put aside: its number in the file, from 1; its line in a text file; and the reason."""

    row: int
    line: int | None
    reason: str


@dataclass(frozen=True)
class Batch:
    """Rows of a file that follow each other.

    Attributes:
        rows: the rows that can be answered, with the columns that are passed on.
        texts: [rows] their texts, or pairs of texts.
        rejected: the rows among them that are put aside.
        position: the bytes of the file that have been read up to here.
    """

    rows: pa.Table
    texts: list[Text]
    rejected: list[Rejected]
    position: float


@dataclass
class NumberedRows:
    """Rows while they are read, with their numbers and their lines: cells, objects with their lines, or indices."""

    rows: list[Any] = field(default_factory=list)
    numbers: list[tuple[int, int | None]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows) + len(self.rejected)

    def add(self, row: int, line: int | None, value: Any) -> None:
        """Add a row with its number and its line."""
        self.rows.append(value)
        self.numbers.append((row, line))

    def keep(self, texts: Sequence[Any], selection: Selection) -> tuple[list[int], list[Text]]:
        """Put aside the rows whose text cannot be answered; return the indices and the texts of the others."""
        indices: list[int] = []
        answerable: list[Text] = []
        for index, text in enumerate(texts):
            reason = text_problem(text, selection)
            if reason is None:
                indices.append(index)
                answerable.append(text)
            else:
                self.rejected.append(Rejected(*self.numbers[index], reason))
        self.rejected.sort()
        return indices, answerable


def text_problem(text: Any, selection: Selection) -> str | None:
    """Say why a text, or a pair of texts, cannot be answered; None if it can."""
    for name, value in zip(selection.texts, text if isinstance(text, tuple) else (text,), strict=True):
        if value is None or (isinstance(value, str) and not value.strip()):
            return f"no text in column {name!r}"
        if not isinstance(value, str):
            return f"column {name!r} has no text but {type(value).__name__}"
    length = characters(text)
    if length > selection.max_characters:
        return f"a text of {length:,} characters; at most {selection.max_characters:,} (predict.max_characters)"
    return None


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8. A byte or an escape that was none is half a surrogate pair in it."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def joined(columns: list[list[Any]]) -> list[Any]:
    """Join the columns of a pair to pairs; a single column stays as it is."""
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
