"""Token folders whose dev is a held-out part of train, for scores by cross-validation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from potstill.artifacts import MANIFEST, sha256_file, verify, whole_folder, write_manifest
from potstill.errors import ChecksumError


def split_folds(tokens: Path, folder: Path, folds: int, seed: int) -> list[Path]:
    """Folders like `tokens`, one a fold: `dev` is the fold, `train` the other rows of train; the rest is the same.

    Args:
        tokens: `data/tokens`.
        folder: where they go; those of the same tokens, folds and seed stay.
        folds: how many; every row of train is held out once.
        seed: of the split.
    """
    source = sha256_file(tokens / MANIFEST)
    made = []
    for number in range(folds):
        place = folder / f"{number}-of-{folds}"
        about = {"source": source, "seed": seed, "folds": folds}
        if not _is(place, about):
            _write(tokens, place, folds, number, seed, about)
        made.append(place)
    return made


def _is(place: Path, about: dict[str, object]) -> bool:
    try:
        return verify(place) == about
    except ChecksumError:
        return False


def _write(tokens: Path, place: Path, folds: int, number: int, seed: int, about: dict[str, object]) -> None:
    with whole_folder(place) as folder:
        shutil.copytree(tokens, folder, dirs_exist_ok=True)
        for path in list(folder.rglob("train.arrow")):
            # Of the original: what is read may stay mapped, and must not be written over.
            with pa.ipc.open_stream(tokens / path.relative_to(folder)) as reader:
                rows = reader.read_all()
            # The windows of a question are rows of one id, and stay together.
            owners = rows.column("id").combine_chunks().dictionary_encode().indices.to_numpy()
            held = (np.random.default_rng(seed).permutation(owners.max(initial=-1) + 1) % folds == number)[owners]
            for split, chosen in (("train", ~held), ("dev", held)):
                _write_rows(path.with_name(f"{split}.arrow"), rows, np.flatnonzero(chosen).tolist())
        write_manifest(folder, about)


def _write_rows(path: Path, rows: pa.Table, chosen: Sequence[int]) -> None:
    table = rows.take(list(chosen))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
