"""Windows: rows that are sorted by length and computed together, and whose answers are one part of the output.

Where a window ends depends on the rows alone. So a run that goes on meets the same windows again, and equal windows
have equal answers to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from potstill.inference.runtime import Text, characters
from potstill.prediction.input_files import InputFile
from potstill.prediction.input_rows import read_batches
from potstill.prediction.row_batches import Batch, Rejected, Selection

# Characters after which a window ends before it has its rows: what tokenizing them takes is bounded.
WINDOW_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class RowWindow:
    """Rows of one file that follow each other.

    Attributes:
        number: of the window in the whole input, from 0.
        location: of the file.
        rows: the rows that are answered, with the columns that are passed on.
        texts: [rows] their texts.
        rejected: the rows that are put aside.
        position: bytes of the input that have been read up to the end of the window.
    """

    number: int
    location: str
    rows: pa.Table
    texts: list[Text]
    rejected: list[Rejected]
    position: float


def read_windows(files: Sequence[InputFile], selection: Selection, window_rows: int) -> Iterator[RowWindow]:
    """Read files in windows, none of which has rows of two files.

    Args:
        files: in order.
        selection: what is read of each row.
        window_rows: most rows of a window, those put aside included.

    Raises:
        FetchError, FormatError: a file cannot be read to its end.
    """
    number = 0
    before = 0
    for file in files:
        for batch in join_batches(read_batches(file, selection), window_rows):
            position = before + batch.position
            yield RowWindow(number, file.location, batch.rows, batch.texts, batch.rejected, position)
            number += 1
        before += file.size


def join_batches(batches: Iterable[Batch], window_rows: int) -> Iterator[Batch]:
    """Join the batches of a file to windows, and cut those that are too large. Empty ones are left out."""
    waiting: list[Batch] = []
    rows = 0
    size = 0
    for batch in batches:
        for piece in _cut(batch, window_rows):
            piece_rows = len(piece.texts) + len(piece.rejected)
            piece_size = sum(map(characters, piece.texts))
            if rows and (rows + piece_rows > window_rows or size + piece_size > WINDOW_CHARACTERS):
                yield _join(waiting)
                waiting = []
                rows = size = 0
            waiting.append(piece)
            rows += piece_rows
            size += piece_size
    if rows:
        yield _join(waiting)


def _cut(batch: Batch, window_rows: int) -> Iterator[Batch]:
    """Cut a batch into pieces that are no larger than a window; the rows put aside stay with the first one."""
    start = 0
    size = 0
    rejected = batch.rejected
    for index, text in enumerate(batch.texts):
        size += characters(text)
        if index > start and (index - start + len(rejected) >= window_rows or size > WINDOW_CHARACTERS):
            yield Batch(batch.rows.slice(start, index - start), batch.texts[start:index], rejected, batch.position)
            start = index
            size = characters(text)
            rejected = []
    yield Batch(batch.rows.slice(start), batch.texts[start:], rejected, batch.position)


def _join(batches: Sequence[Batch]) -> Batch:
    return Batch(
        pa.concat_tables([batch.rows for batch in batches]),
        [text for batch in batches for text in batch.texts],
        [rejected for batch in batches for rejected in batch.rejected],
        batches[-1].position,
    )
