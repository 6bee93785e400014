"""Token folders whose dev split is a held-out part of train, for cross-validation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from potstill.artifacts import MANIFEST, sha256_file, verify, whole_folder, write_manifest
from potstill.errors import ChecksumError


def split_folds(tokens: Path, folder: Path, folds: int, seed: int) -> list[Path]:
    """Write folders like `tokens`, one for each fold: `dev` is the fold, `train` the other rows of train.

    Args:
        tokens: `data/tokens`.
        folder: parent of the new folders; folders of the same tokens, folds and seed stay as they are.
        folds: number of folds; every row of train is held out once.
        seed: seed of the split.
    """
    source = sha256_file(tokens / MANIFEST)
    fold_dirs = []
    for number in range(folds):
        fold_dir = folder / f"{number}-of-{folds}"
        metadata = {"source": source, "seed": seed, "folds": folds}
        if not _is_current(fold_dir, metadata):
            _write_fold(tokens, fold_dir, folds, number, seed, metadata)
        fold_dirs.append(fold_dir)
    return fold_dirs


def _is_current(fold_dir: Path, metadata: dict[str, object]) -> bool:
    try:
        return verify(fold_dir) == metadata
    except ChecksumError:
        return False


def _write_fold(tokens: Path, fold_dir: Path, folds: int, number: int, seed: int, metadata: dict[str, object]) -> None:
    with whole_folder(fold_dir) as folder:
        shutil.copytree(tokens, folder, dirs_exist_ok=True)
        for path in list(folder.rglob("train.arrow")):
            # Read from the original: a file that is read may stay mapped, and must not be overwritten.
            with pa.ipc.open_stream(tokens / path.relative_to(folder)) as reader:
                rows = reader.read_all()
            # The windows of a question are rows with one id, and stay together.
            groups = rows.column("id").combine_chunks().dictionary_encode().indices.to_numpy()
            held_out = (np.random.default_rng(seed).permutation(groups.max(initial=-1) + 1) % folds == number)[groups]
            for split, selected in (("train", ~held_out), ("dev", held_out)):
                target = str(path.with_name(f"{split}.arrow"))
                with pa.OSFile(target, "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
                    writer.write_table(rows.take(np.flatnonzero(selected)))
        write_manifest(folder, metadata)
