"""Finished models of a stage with several trainings, saved next to its checkpoints until the stage ends.

A stage that is interrupted in its third training resumes there, with exactly the first two models.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.artifacts import MANIFEST, verify, whole_folder, write_manifest
from potstill.compute.distributed import current_world
from potstill.data.tokens.batches import ragged
from potstill.errors import ChecksumError
from potstill.pretrained.files import copy_tokenizer_files
from potstill.pretrained.weights import quiet
from potstill.progress import say
from potstill.training.loop import Outcome

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SIGNALS, _LENGTHS = "signals.npy", "signal-lengths.npy"


def save(folder: Path, model: PreTrainedModel, outcome: Outcome, signals: npt.NDArray[Any]) -> None:
    """Write a trained model, the outcome of its training, and its signals; the first of several processes writes.

    Args:
        folder: folder to write.
        model: the trained model.
        outcome: of its training.
        signals: [rows, ...], or [rows] objects [tokens, ...], as `predict_signals` returns them.
    """

    def write() -> None:
        with whole_folder(folder) as out, quiet():
            model.save_pretrained(out)
            numbers = signals
            if signals.dtype.kind == "O":
                np.save(out / _LENGTHS, np.array([len(row) for row in signals]), allow_pickle=False)
                numbers = np.concatenate([*signals])
            np.save(out / _SIGNALS, numbers, allow_pickle=False)
            write_manifest(out, asdict(outcome))

    current_world().run_on_first(write)


def load_outcome(folder: Path) -> Outcome | None:
    """Read the outcome of a finished training; None if there is none that verifies."""
    return current_world().run_on_first(lambda: _load_outcome(folder))


def _load_outcome(folder: Path) -> Outcome | None:
    if not folder.exists():
        return None
    try:
        return Outcome.from_json(verify(folder))
    except ChecksumError as error:
        say(f"finished model skipped: {error}")
        return None


def copy_model(folder: Path, target: Path, tokenizer: Path) -> None:
    """Copy a finished model and a tokenizer's files into a folder, with the files that `save_model` writes."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(MANIFEST, _SIGNALS, _LENGTHS), dirs_exist_ok=True)
    copy_tokenizer_files(tokenizer, target)


def signals(folder: Path) -> npt.NDArray[Any]:
    """Map the signals of a finished model, in the form of `predict_signals`."""
    numbers: npt.NDArray[Any] = np.load(folder / _SIGNALS, mmap_mode="r", allow_pickle=False)
    if not (folder / _LENGTHS).exists():
        return numbers
    lengths = np.load(folder / _LENGTHS, allow_pickle=False)
    ends = np.cumsum(lengths).tolist()
    return ragged([numbers[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)])
