"""Reads columnar files: Parquet, and folders saved by `datasets`."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.data.formats.tabular import Table
from potstill.errors import EmptyDataError, EncodingError, FetchError, FormatError

if TYPE_CHECKING:
    import pyarrow as pa

# Errors of a value without a form in Python: bytes that are no UTF-8, a date after the year 9999, a time zone that
# nobody knows.
UNREADABLE = (ValueError, OverflowError, LookupError)


def read_parquet(data: bytes, location: str) -> Table:
    """Read a Parquet file, with the class names that `datasets` writes into its metadata.

    Raises:
        EmptyDataError: the file is empty.
        EncodingError: a text is not UTF-8.
        FormatError: it is no Parquet file, or a value is none that Python has.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not data:
        raise EmptyDataError(f"{location} is empty; give a file with data")
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{location} is not a readable Parquet file: {' '.join(str(error).split())[:200]}") from error
    return _from_arrow(table, location, None, "parquet")


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `datasets`' save_to_disk."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def read_saved(folder: Path, files: str) -> Iterator[Table]:
    """Read a folder that `datasets` has saved, one table for each split whose name matches.

    Raises:
        FormatError: `datasets` cannot read the folder.
        FetchError: no split matches.
        EncodingError: a text is not UTF-8.
    """
    from datasets import Dataset, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{folder.as_posix()} was not written by datasets' save_to_disk: {' '.join(str(error).split())[:200]}"
        ) from error
    parts: dict[str | None, Any] = {None: loaded} if isinstance(loaded, Dataset) else dict(loaded)
    matching = {
        name: part for name, part in parts.items() if name is None or name == files or fnmatch.fnmatch(name, files)
    }
    if not matching:
        raise FetchError(f"prepare.tables: no split of {folder} matches {files!r}; it has {', '.join(map(str, parts))}")
    for name, part in matching.items():
        location = folder.as_posix() + (f" [{name}]" if name else "")
        # A shuffled or selected data set reaches its rows through an index, which flatten_indices applies.
        arrow = part.flatten_indices().data.table
        yield _from_arrow(arrow.replace_schema_metadata(_metadata(part.features)), location, name, "saved")


def _metadata(features: Any) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}


def _from_arrow(table: pa.Table, location: str, split: str | None, file_format: str) -> Table:
    columns = {name: _values(table.column(name), location, name) for name in table.column_names}
    row_numbers = range(1, table.num_rows + 1)
    return Table(
        location, columns, row_numbers, "row", split, _class_names(table.schema.metadata or {}), format=file_format
    )


def _values(column: pa.ChunkedArray, location: str, name: str) -> list[Any]:
    """Convert a column. Parquet checks neither that texts are UTF-8 nor that dates are ones that Python has."""
    try:
        values: list[Any] = column.to_pylist()
    except UNREADABLE as error:
        row = next(row for row, value in enumerate(column) if not is_readable(value))
        where = f"{location}, row {row + 1}: the value in column {name!r}"
        if isinstance(error, UnicodeDecodeError):
            raise EncodingError(f"{where} is not UTF-8; write the file again from texts in UTF-8") from error
        raise FormatError(f"{where} cannot be read ({error}); correct the row, or store the column as text") from error
    return values


def is_readable(value: pa.Scalar) -> bool:
    """Return whether a value has a form in Python."""
    try:
        value.as_py()
    except UNREADABLE:
        return False
    return True


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Map columns to the names of their classes, from the metadata of `datasets`. For lists, those of the items."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        kinds = {name: _item(feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        name: [str(label) for label in kind["names"]]
        for name, kind in kinds.items()
        if kind.get("_type") == "ClassLabel" and isinstance(kind.get("names"), list)
    }


def _item(feature: Any) -> Any:
    """Unwrap the feature of a list's items."""
    while not isinstance(feature, Mapping) or feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature[0] if isinstance(feature, list) else feature["feature"]
    return feature
