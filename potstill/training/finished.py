"""Models that a stage of several trainings has finished, kept beside its checkpoints until the stage's outs appear.

So a stage that is interrupted in its third training goes on there, with the bits of the first two.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.artifacts import MANIFEST, verify, whole_folder, write_manifest
from potstill.compute.distributed import current_world
from potstill.data.tokens.batches import ragged
from potstill.errors import ChecksumError
from potstill.models.loading import copy_tokenizer_files, load_classifier
from potstill.pretrained.weights import quiet
from potstill.progress import say
from potstill.training.loop import Outcome

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SIGNALS, _LENGTHS = "signals.npy", "signal-lengths.npy"


def keep(folder: Path, model: PreTrainedModel, outcome: Outcome, signals: npt.NDArray[Any]) -> None:
    """Write a trained model, how its training ended, and what it says on rows of the caller's.

    `signals` are numbers [rows, ...], or [rows] objects [tokens, ...]. Of several processes the first writes, and the
    others wait for it.
    """
    about = {"score": outcome.score, "scores": outcome.scores, "history": outcome.history, "rows": outcome.rows}
    about |= {"steps": outcome.steps}

    def write() -> None:
        with whole_folder(folder) as out, quiet():
            model.save_pretrained(out)
            numbers = signals
            if signals.dtype.kind == "O":
                np.save(out / _LENGTHS, np.array([len(row) for row in signals]), allow_pickle=False)
                numbers = np.concatenate([*signals])
            np.save(out / _SIGNALS, numbers, allow_pickle=False)
            write_manifest(out, about)

    current_world().run_on_first(write)


def kept(folder: Path) -> Outcome | None:
    """How the training of a kept model ended; None where there is none that verifies."""
    return current_world().run_on_first(lambda: _kept(folder))


def _kept(folder: Path) -> Outcome | None:
    if not folder.exists():
        return None
    try:
        about: dict[str, Any] = verify(folder)
    except ChecksumError as error:
        say(f"finished model passed over: {error}")
        return None
    history = [(int(step), str(name), float(value)) for step, name, value in about["history"]]
    return Outcome(about["score"], about["scores"], history, about["rows"], steps=about.get("steps", 0))


def copy_model(folder: Path, to: Path, tokenizer: Path) -> None:
    """Put a kept model and a tokenizer's files into a folder, as `save_model` would."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(MANIFEST, _SIGNALS, _LENGTHS), dirs_exist_ok=True)
    copy_tokenizer_files(tokenizer, to)


def load(folder: Path) -> PreTrainedModel:
    """A kept model, of the class that it was kept as, in evaluation mode and fp32."""
    return load_classifier(folder)


def signals(folder: Path) -> npt.NDArray[Any]:
    """What a kept model said, mapped."""
    numbers: npt.NDArray[Any] = np.load(folder / _SIGNALS, mmap_mode="r", allow_pickle=False)
    if not (folder / _LENGTHS).exists():
        return numbers
    lengths = np.load(folder / _LENGTHS, allow_pickle=False)
    ends = np.cumsum(lengths).tolist()
    return ragged([numbers[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)])
