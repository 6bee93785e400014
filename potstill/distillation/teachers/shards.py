"""Files of signals: shards that are written atomically and verified by checksum, and arrays read across shards.

In the work folder a shard is a folder `shard-<n>` with one safetensors file and a manifest, which is written last. A
store has the files `shard-<n>.safetensors`, which are memory-mapped when one of their rows is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from potstill.artifacts import verify, whole_folder, write_manifest
from potstill.data.tokens.batches import Ints
from potstill.distillation.teachers.fidelity import ErrorSums, add_errors
from potstill.distillation.teachers.signal_arrays import Column
from potstill.errors import ChecksumError, SignalError
from potstill.progress import say

Floats = npt.NDArray[np.floating[Any]]

# Shards of long rows or wide arrays have fewer rows, so that the memory they take is bounded.
SHARD_BYTES = 2**27
DATA = "signals.safetensors"
LENGTHS = "lengths"


def cut_shards(lengths: Ints, columns: Mapping[str, Column], dtype: str, rows: int) -> list[slice]:
    """Split rows into shards of at most `rows` rows and SHARD_BYTES bytes, but at least one row.

    Args:
        lengths: [rows] tokens of each row, in the order in which they are stored.
        columns: the arrays that are stored.
        dtype: number format of the arrays.
        rows: maximum number of rows of a shard.
    """
    row_size = sum(column.size for column in columns.values() if not column.per_token)
    token_size = sum(column.size for column in columns.values() if column.per_token)
    ends = np.cumsum((row_size + token_size * lengths) * np.dtype(dtype).itemsize)
    shards = []
    start = 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + SHARD_BYTES, side="right"))
        stop = min(max(stop, start + 1), start + rows, len(lengths))
        shards.append(slice(start, stop))
        start = stop
    return shards


@dataclass
class PendingShard:
    """A shard in memory, whose arrays are filled batch by batch in the order of the rows.

    Args:
        lengths: [rows] tokens of each row.
        columns: the arrays that are stored.
        dtype: number format of the arrays.
    """

    lengths: Ints
    columns: Mapping[str, Column]
    dtype: str
    errors: ErrorSums = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = int(self.lengths.sum())
        self.arrays = {
            name: np.empty((tokens if column.per_token else len(self.lengths), *column.shape), dtype=self.dtype)
            for name, column in self.columns.items()
        }
        self._filled = dict.fromkeys(self.arrays, 0)

    def add(self, answers: Mapping[str, Floats]) -> None:
        """Append the next rows, or their tokens, to each array.

        Raises:
            SignalError: a number is not finite, or beyond the range of the number format.
        """
        for name, exact in answers.items():
            start = self._filled[name]
            stored = self.arrays[name][start : start + len(exact)]
            with np.errstate(over="ignore"):
                stored[...] = exact
            _check_finite(name, exact, stored, self.dtype)
            add_errors(self.errors, name, exact, stored)
            self._filled[name] += len(exact)

    def write(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Write the shard's folder atomically, with the metadata in its manifest."""
        from safetensors.numpy import save_file

        assert all(self._filled[name] == len(array) for name, array in self.arrays.items())
        with whole_folder(folder, sum(array.nbytes for array in self.arrays.values())) as partial:
            save_file({LENGTHS: self.lengths.astype(np.int32), **self.arrays}, partial / DATA)
            write_manifest(partial, {**metadata, "fidelity": self.errors})


def _check_finite(name: str, exact: Floats, stored: Floats, dtype: str) -> None:
    if not np.isfinite(exact).all():
        raise SignalError(
            f"the teacher's {name} are NaN or infinite on some rows; set project.precision to fp32, or train it again"
        )
    if not np.isfinite(stored).all():
        raise SignalError(
            f"the teacher's {name} reach {np.abs(exact).max():.3g}, beyond {dtype}'s {np.finfo(dtype).max:.0f}; set "
            "signals.dtype to float32"
        )


def finished(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the manifest of a shard of an earlier run; None unless it verifies and has this metadata."""
    if not folder.exists():
        return None
    try:
        manifest = verify(folder)
    except ChecksumError as error:
        say(f"signals: a shard of an earlier run is written again: {error}")
        return None
    return manifest if metadata.items() <= manifest.items() else None


def shard_name(number: int) -> str:
    """Return the name of a shard's file in a store."""
    return f"shard-{number:06d}.safetensors"


class Shards:
    """The files of a store, each memory-mapped when it is first read.

    Args:
        folder: folder of the store.
        rows: number of rows of each shard, in order.
    """

    def __init__(self, folder: Path, rows: Iterable[int]) -> None:
        self._folder = folder
        self._ends = np.cumsum(list(rows))
        self._open: dict[int, dict[str, Tensor]] = {}
        self._starts: dict[int, Ints] = {}

    def tensors(self, number: int) -> dict[str, Tensor]:
        """Map the arrays of a shard; only pages that are read take memory."""
        if number not in self._open:
            self._open[number] = mapped(self._folder / shard_name(number))
        return self._open[number]

    def token_starts(self, number: int) -> Ints:
        """Return where the tokens of each row start, [rows of the shard + 1]."""
        if number not in self._starts:
            lengths = self.tensors(number)[LENGTHS].numpy()
            self._starts[number] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return self._starts[number]

    def split(self, rows: Ints) -> Iterator[tuple[int, Ints, Ints]]:
        """Yield (shard, indices in `rows`, rows within the shard) for each shard that has some of the rows."""
        shards = np.searchsorted(self._ends, rows, side="right")
        for shard in np.unique(shards):
            indices = np.flatnonzero(shards == shard)
            first = self._ends[shard - 1] if shard else 0
            yield int(shard), indices, rows[indices] - first


@dataclass(frozen=True)
class StoredColumn:
    """One array of a store, read across its shards."""

    shards: Shards
    name: str
    column: Column

    def read(self, rows: Ints, sequence: int) -> npt.NDArray[np.float32]:
        """Read some rows in fp32.

        Args:
            rows: [batch] indices of rows in the store.
            sequence: number of tokens to which rows are padded with zeros; at least that of the longest row.

        Returns:
            [batch, *shape], or [batch, sequence, *shape] of an array with entries per token.
        """
        per_token = self.column.per_token
        size = (len(rows), sequence) if per_token else (len(rows),)
        values = np.zeros((*size, *self.column.shape), dtype=np.float32)
        for shard, indices, shard_rows in self.shards.split(rows):
            array = self.shards.tensors(shard)[self.name].numpy()
            if not per_token:
                values[indices] = array[shard_rows]
                continue
            starts = self.shards.token_starts(shard)
            for index, row in zip(indices.tolist(), shard_rows.tolist(), strict=True):
                start, end = starts[row], starts[row + 1]
                values[index, : end - start] = array[start:end]
        return values


def mapped(path: Path) -> dict[str, Tensor]:
    """Map the arrays of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
