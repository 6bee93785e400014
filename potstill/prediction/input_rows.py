"""The columns and the rows of a file to predict, whichever format it has."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import pyarrow as pa

from potstill.data.formats.delimited import refuse_twice
from potstill.errors import FormatError, MissingColumnError
from potstill.prediction.delimited_rows import read_delimited_rows, read_header
from potstill.prediction.input_files import InputFile
from potstill.prediction.object_rows import object_keys, read_object_rows
from potstill.prediction.parquet_rows import is_text, open_parquet, read_parquet_rows
from potstill.prediction.row_batches import Batch, Selection

# Columns that a message lists.
_MAX_NAMES = 20


def column_names(file: InputFile) -> list[str] | None:
    """Name the columns of a file; of JSON lines, the keys of its first objects. None: the file is empty.

    Raises:
        FetchError, FormatError, EncodingError: the file cannot be read, or has two columns of one name.
    """
    if file.format == "parquet":
        with open_parquet(file) as parquet:
            names = list(parquet.schema_arrow.names)
        refuse_twice(names, file.location)
        return names
    if file.format == "jsonl":
        return object_keys(file)
    header = read_header(file)
    return None if header is None else header.names


def check_columns(file: InputFile, names: Sequence[str], selection: Selection) -> None:
    """Check that a file has the columns that are read.

    Args:
        file: the file.
        names: its columns, from `column_names`.
        selection: what is read.

    Raises:
        MissingColumnError: a column is not there.
        FormatError: the column of the text holds no texts.
    """
    for name in (*selection.texts, *(selection.columns or ())):
        if name not in names and not (file.format == "jsonl" and name.partition(".")[0] in names):
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            guess = f"did you mean {near[0]!r}? It" if near else "it"
            raise MissingColumnError(
                f"{file.location} has no column {name!r}; {guess} has {', '.join(map(repr, names[:_MAX_NAMES]))} (name "
                "the text with --text, and what is passed on with --columns)"
            )
    if file.format == "parquet":
        with open_parquet(file) as parquet:
            for name in selection.texts:
                kind = parquet.schema_arrow.field(name).type
                if not is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
                    raise FormatError(
                        f"{file.location}: column {name!r} holds {kind}, not texts; name another (--text)"
                    )


def read_batches(file: InputFile, selection: Selection) -> Iterator[Batch]:
    """Read the rows of a file, at most `BATCH` at once.

    Raises:
        FetchError: it cannot be read.
        FormatError: it is damaged, or ends in the middle.
    """
    if file.format == "parquet":
        return read_parquet_rows(file, selection)
    if file.format == "jsonl":
        return read_object_rows(file, selection)
    return read_delimited_rows(file, selection)
