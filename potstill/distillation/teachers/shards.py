"""Files of signals: shards that are written whole and verified by their sums, and arrays read from many of them.

A shard in the work folder is a folder `shard-<n>` of one safetensors file and a manifest, written last. In a store the
files lie side by side as `shard-<n>.safetensors`, mapped when a row of theirs is asked for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from potstill.artifacts import verify, whole_folder, write_manifest
from potstill.data.tokens.batches import Ints
from potstill.distillation.teachers.fidelity import Fidelity
from potstill.distillation.teachers.signal_arrays import Column
from potstill.errors import ChecksumError, SignalError
from potstill.progress import say

Floats = npt.NDArray[np.floating[Any]]

# A shard of long rows or wide arrays ends before it has its count of rows, so that memory does not depend on them.
SHARD_BYTES = 2**27
_DATA = "signals.safetensors"
LENGTHS = "lengths"


def cut_shards(lengths: Ints, columns: Mapping[str, Column], dtype: str, rows: int) -> list[slice]:
    """The shards of rows in the given order: at most `rows` each, and at most SHARD_BYTES where a row allows it.

    Args:
        lengths: [rows] tokens of each row.
        columns: what is stored of a row.
        dtype: number format of it.
        rows: of one shard.
    """
    of_row = sum(column.size(1) for column in columns.values() if not column.per_token)
    of_token = sum(column.size(1) for column in columns.values() if column.per_token)
    ends = np.cumsum((of_row + of_token * lengths) * np.dtype(dtype).itemsize)
    found, start = [], 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + SHARD_BYTES, side="right"))
        stop = min(max(stop, start + 1), start + rows, len(lengths))
        found.append(slice(start, stop))
        start = stop
    return found


@dataclass
class Pending:
    """A shard on its way: arrays that are filled batch by batch, in the order of the rows.

    Args:
        lengths: [rows] tokens of each row.
        columns: what is stored.
        dtype: number format of it.
    """

    lengths: Ints
    columns: Mapping[str, Column]
    dtype: str
    fidelity: Fidelity = field(default_factory=Fidelity)

    def __post_init__(self) -> None:
        tokens = int(self.lengths.sum())
        self.arrays = {
            name: np.empty((tokens if column.per_token else len(self.lengths), *column.shape), dtype=self.dtype)
            for name, column in self.columns.items()
        }
        self._filled = dict.fromkeys(self.arrays, 0)

    def add(self, answers: Mapping[str, Floats]) -> None:
        """The next rows (or their tokens) of each array.

        Raises:
            SignalError: a number is not finite, or not in the number format.
        """
        for name, exact in answers.items():
            start = self._filled[name]
            stored = self.arrays[name][start : start + len(exact)]
            with np.errstate(over="ignore"):
                stored[...] = exact
            _check_finite(name, exact, stored, self.dtype)
            self.fidelity.add(name, exact, stored)
            self._filled[name] += len(exact)

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Make the shard's folder, whole and on disk or not at all."""
        from safetensors.numpy import save_file

        assert all(self._filled[name] == len(array) for name, array in self.arrays.items())
        with whole_folder(folder) as beside:
            save_file({LENGTHS: self.lengths.astype(np.int32), **self.arrays}, beside / _DATA)
            write_manifest(beside, {**about, "fidelity": self.fidelity.sums})


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


def finished(folder: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the manifest of an earlier run's shard says, if it is about the same rows and verifies; else None."""
    if not folder.exists():
        return None
    try:
        found = verify(folder)
    except ChecksumError as error:
        say(f"signals: a shard of an earlier run is made again: {error}")
        return None
    return found if about.items() <= found.items() else None


def link(shard: Path, store: Path, number: int) -> None:
    """Put a shard's file into a store; the work folder keeps its own until the stage has ended."""
    target = store / shard_name(number)
    try:
        os.link(shard / _DATA, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(shard / _DATA, target)


def shard_name(number: int) -> str:
    """The file of a shard in a store."""
    return f"shard-{number:06d}.safetensors"


class Shards:
    """The mapped files of a store, each opened when it is first read.

    Args:
        folder: of the store.
        rows: of each shard, in order.
    """

    def __init__(self, folder: Path, rows: Iterable[int]) -> None:
        self._folder = folder
        self._ends = np.cumsum(list(rows))
        self._open: dict[int, dict[str, Tensor]] = {}
        self._starts: dict[int, Ints] = {}

    def tensors(self, number: int) -> dict[str, Tensor]:
        """The arrays of a shard, mapped: only the pages that are read take memory."""
        if number not in self._open:
            self._open[number] = mapped(self._folder / shard_name(number))
        return self._open[number]

    def token_starts(self, number: int) -> Ints:
        """[rows of the shard + 1] where the tokens of each row start."""
        if number not in self._starts:
            lengths = self.tensors(number)[LENGTHS].numpy()
            self._starts[number] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return self._starts[number]

    def split(self, rows: Ints) -> Iterator[tuple[int, Ints, Ints]]:
        """(shard, places in `rows`, rows within the shard) of stored rows, for each shard that has some of them."""
        owners = np.searchsorted(self._ends, rows, side="right")
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            first = self._ends[owner - 1] if owner else 0
            yield int(owner), places, rows[places] - first


class StoredColumn:
    """One array over all shards of a store."""

    def __init__(self, shards: Shards, name: str, column: Column) -> None:
        self._shards, self._name, self._column = shards, name, column

    def read(self, rows: Ints, sequence: int) -> npt.NDArray[np.float32]:
        """What is stored of some rows, fp32.

        Args:
            rows: [batch] in the store's order.
            sequence: tokens of the longest row, to which the others are padded with zeros.

        Returns:
            [batch, *shape], or [batch, sequence, *shape] of each token.
        """
        per_token = self._column.per_token
        size = (len(rows), sequence) if per_token else (len(rows),)
        found = np.zeros((*size, *self._column.shape), dtype=np.float32)
        for number, places, within in self._shards.split(rows):
            array = self._shards.tensors(number)[self._name].numpy()
            if not per_token:
                found[places] = array[within]
                continue
            starts = self._shards.token_starts(number)
            for place, row in zip(places.tolist(), within.tolist(), strict=True):
                begin, end = starts[row], starts[row + 1]
                found[place, : end - begin] = array[begin:end]
        return found


def mapped(path: Path) -> dict[str, Tensor]:
    """The arrays of one safetensors file, mapped."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
