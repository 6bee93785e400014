"""Columnar files as tables: Parquet, and folders saved by `datasets`."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.data.formats.tabular import Table
from potstill.errors import EmptyDataError, FetchError, FormatError

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(data: bytes, where: str) -> Table:
    """Read a Parquet file, with the class names that `datasets` writes into its metadata.

    Raises:
        EmptyDataError: no bytes.
        FormatError: no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not data:
        raise EmptyDataError(f"{where} is empty; give a file with data")
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{where} is not a readable Parquet file: {' '.join(str(error).split())[:200]}") from error
    return _from_arrow(table, where, None, "parquet")


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `datasets`' save_to_disk."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def read_saved(folder: Path, files: str) -> Iterator[Table]:
    """Read a folder that `datasets` has saved, a table for each of its splits whose name matches.

    Raises:
        FormatError: it is none.
        FetchError: no split matches.
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
        where = folder.as_posix() + (f" [{name}]" if name else "")
        # Through flatten_indices: a shuffled or selected dataset reaches its rows through an index.
        arrow = part.flatten_indices().data.table
        yield _from_arrow(arrow.replace_schema_metadata(_metadata(part.features)), where, name, "saved")


def _metadata(features: Any) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}


def _from_arrow(table: pa.Table, where: str, split: str | None, form: str) -> Table:
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    places = range(1, table.num_rows + 1)
    return Table(where, columns, places, "row", split, _class_names(table.schema.metadata or {}), format=form)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> names of its classes, from what `datasets` writes into a schema; of a list, those of its items."""
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
    """A feature, or the feature of a list's items."""
    while not isinstance(feature, Mapping) or feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature[0] if isinstance(feature, list) else feature["feature"]
    return feature
