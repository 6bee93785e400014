"""The teacher's outputs as data: computed once, keyed by weights, tokenizer and token ids, reused by every student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from potstill.artifacts import sha256_file, sha256_value, verify, write_manifest
from potstill.data.batches import SPAN, Batch, Ints, TokenDataset
from potstill.distillation.outputs import LOGITS, Needs, Outputs
from potstill.errors import SignalError
from potstill.progress import progress
from potstill.training.precision import Precision
from potstill.training.predict import predict_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Keys = npt.NDArray[np.bytes_]


def teacher_identity(folder: Path) -> dict[str, str]:
    """What a teacher's outputs depend on beside the token ids: its weights, config and tokenizer, as sha256."""
    weights = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
    weights["config.json"] = sha256_file(folder / "config.json")
    return {"weights": sha256_value(weights), "tokenizer": sha256_file(folder / "tokenizer.json")}


def unique_rows(keys: Keys) -> Ints:
    """The first row of each distinct key, so that a teacher never runs twice on the same tokens."""
    return np.sort(np.unique(keys, return_index=True)[1]).astype(np.int64)


def extract(
    teacher: PreTrainedModel,
    dataset: TokenDataset,
    *,
    batch_tokens: int,
    precision: Precision,
) -> tuple[Keys, npt.NDArray[np.float32]]:
    """Run the teacher over the distinct rows of a dataset.

    Returns:
        [unique] keys and [unique, classes] logits, in the order of first appearance.
    """
    keys = dataset.keys()
    rows = unique_rows(keys)
    asked = dataset.select(rows)
    if asked.labels.dtype == SPAN or asked.labels.dtype.kind == "O":
        asked = asked.of_every_token()
    with progress("signals", len(rows), "rows") as bar:
        logits = predict_logits(teacher, asked, batch_tokens=batch_tokens, precision=precision, advance=bar.advance)
    return keys[rows], logits


def write_signals(
    folder: Path, keys: Keys, logits: npt.NDArray[np.float32], identity: dict[str, str], dtype: str
) -> float:
    """Write a store into an empty folder, manifest last.

    Returns:
        The largest absolute rounding error of a logit in the stored dtype.
    """
    order = np.argsort(keys, kind="stable")
    if logits.dtype.kind == "O":  # of tokens
        np.save(folder / "lengths.npy", np.array([len(row) for row in logits[order]]), allow_pickle=False)
        flat = np.concatenate([*logits[order]])
        np.save(folder / "keys.npy", keys[order].view(np.uint8).reshape(-1, 16), allow_pickle=False)
        np.save(folder / "logits.npy", flat.astype(dtype), allow_pickle=False)
        write_manifest(folder, {"teacher": identity, "rows": len(keys), "dtype": dtype, "rounding_error": 0.0})
        return 0.0
    stored = logits.astype(dtype)
    np.save(folder / "keys.npy", keys[order].view(np.uint8).reshape(-1, 16), allow_pickle=False)
    np.save(folder / "logits.npy", stored[order], allow_pickle=False)
    error = float(np.abs(stored.astype(np.float32) - logits).max(initial=0.0))
    write_manifest(folder, {"teacher": identity, "rows": len(keys), "dtype": dtype, "rounding_error": error})
    return error


@dataclass(frozen=True)
class StoredSignals:
    """A source of teacher outputs: logits of a store, in the order of a dataset's rows. It holds nothing else."""

    logits: npt.NDArray[np.floating]
    positions: Ints
    lengths: Ints | None = None
    name: ClassVar[str] = "a store of logits"

    @classmethod
    def open(cls, folder: Path, dataset: TokenDataset, teacher: Path) -> StoredSignals:
        """Map a store and join it to a dataset by token ids.

        Raises:
            SignalError: the store is another teacher's or tokenizer's, or lacks rows of the dataset.
            ChecksumError: a file of the store was altered.
        """
        about = verify(folder)
        for part, identity in teacher_identity(teacher).items():
            if about["teacher"][part] != identity:
                raise SignalError(
                    f"the signals in {folder} were made with another teacher's {part} than {teacher} holds; "
                    "run the signals stage again"
                )
        keys = np.load(folder / "keys.npy", mmap_mode="r", allow_pickle=False).reshape(-1).view("V16")
        wanted = dataset.keys()
        found = np.searchsorted(keys, wanted) if len(keys) else np.zeros(len(wanted), dtype=np.int64)
        found = np.minimum(found, max(len(keys) - 1, 0))
        missing = int((keys[found] != wanted).sum()) if len(keys) else len(wanted)
        if missing:
            raise SignalError(
                f"the signals in {folder} lack {missing} of {len(wanted)} rows (other token ids); "
                "run the signals stage again"
            )
        lengths = np.load(folder / "lengths.npy") if (folder / "lengths.npy").exists() else None
        return cls(np.load(folder / "logits.npy", mmap_mode="r", allow_pickle=False), found.astype(np.int64), lengths)

    def supports(self, needs: Needs) -> bool:
        """Logits alone."""
        return not needs

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """[batch, classes] logits of the batch's dataset rows, fp32."""
        if self.lengths is not None:
            ends = np.cumsum(self.lengths)
            found = np.zeros((*batch.input_ids.shape, self.logits.shape[1]), dtype=np.float32)
            for place, row in enumerate(self.positions[batch.rows]):
                found[place, : self.lengths[row]] = self.logits[ends[row] - self.lengths[row] : ends[row]]
            return Outputs(torch.from_numpy(found))
        logits = np.asarray(self.logits[self.positions[batch.rows]], dtype=np.float32)
        return Outputs(torch.from_numpy(logits))
