"""The store of a teacher's outputs: computed once, keyed by weights, tokenizer and token ids, reused by students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from potstill.artifacts import link_file, sha256_file, sha256_value, verify, write_manifest
from potstill.compute.distributed import current_world
from potstill.config.teacher_params import Signals
from potstill.data.tokens.batches import Batch, Ints, TokenDataset, cut_batches
from potstill.data.tokens.token_budget import TokenBudget
from potstill.distillation.teachers.fidelity import report
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.providers import Source
from potstill.distillation.teachers.shards import (
    DATA,
    Floats,
    PendingShard,
    Shards,
    StoredColumn,
    cut_shards,
    finished,
    mapped,
    shard_name,
)
from potstill.distillation.teachers.signal_arrays import (
    Column,
    columns_of,
    described,
    from_arrays,
    names_of,
    to_arrays,
)
from potstill.errors import EmptyDataError, SignalError
from potstill.models.mixup import MixedBatch
from potstill.pretrained.members import MEMBERS
from potstill.progress import progress, say

Keys = npt.NDArray[np.bytes_]

FORMAT = 2
_INDEX = "index.safetensors"


def teacher_identity(folder: Path) -> dict[str, str]:
    """Compute sha256 digests of all that a teacher's outputs depend on besides token ids.

    Args:
        folder: folder of the teacher.

    Returns:
        `weights`, the digest of weights and config (of all members of an ensemble, but not of their ensemble weights),
        and `tokenizer`.
    """
    files = [*folder.glob("*.safetensors"), *folder.glob(f"{MEMBERS}/*/*.safetensors"), folder / "config.json"]
    files += folder.glob(f"{MEMBERS}/*/*.json")
    weights = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    return {"weights": sha256_value(weights), "tokenizer": sha256_file(folder / "tokenizer.json")}


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extracted:
    """The result of an extraction: shards with a teacher's outputs.

    Attributes:
        keys: [stored rows] hash of each row's token ids, in the order of the shards.
        shards: folders of the shards, in order.
        metadata: content of the store's manifest; its `fidelity` is the report on rounding errors.
        rows: rows of the dataset, duplicates included.
    """

    keys: Keys
    shards: tuple[Path, ...]
    metadata: dict[str, Any]
    rows: int


def distinct_rows(dataset: TokenDataset, keys: Keys) -> Ints:
    """Select one row for each distinct key, longest rows first, so that a teacher never sees the same tokens twice.

    Sorting by length puts rows of similar length into a batch, and lets a batch that does not fit in memory fail at
    the start.
    """
    rows = np.sort(np.unique(keys, return_index=True)[1]).astype(np.int64)
    return rows[np.argsort(-dataset.lengths[rows], kind="stable")]


def extract(
    teacher: Source,
    dataset: TokenDataset,
    params: Signals,
    *,
    identity: Mapping[str, str],
    work: Path,
    environment: Mapping[str, str] | None = None,
) -> Extracted:
    """Run a teacher over the distinct rows of a dataset, shard by shard.

    An interrupted extraction resumes after its finished shards and ends with the same bytes. It takes the memory of one
    shard and one batch, whatever the number of rows. Processes started by `torchrun` share the shards; each returns
    when all are finished.

    Args:
        teacher: a live teacher, or an ensemble.
        dataset: the rows.
        params: what is stored, its number format, and the sizes of batches and shards.
        identity: digests of the teacher; see `teacher_identity`.
        work: folder of finished shards, shared by all processes; the caller removes it when the store is written.
        environment: what else the numbers depend on, such as device and number format of the forward pass.

    Raises:
        SignalError: the teacher cannot provide what is to be stored, or a number is not finite or out of range.
        EmptyDataError: there are no rows.
        TrainingError: a batch does not fit in memory, on an accelerator not even with half the tokens.
    """
    if not len(dataset):
        raise EmptyDataError("there are no rows to run the teacher on; add some to train or transfer")
    needs = Needs(frozenset(params.hidden), frozenset(params.attention), frozenset(params.vectors))
    keys = dataset.keys()
    rows = distinct_rows(dataset, keys)
    with torch.inference_mode():
        columns = columns_of(teacher, dataset.batch(rows[:1]), needs)
    facts = {
        "teacher": dict(identity),
        "made": dict(environment or {}),
        "dtype": params.dtype,
        "columns": {name: {"shape": list(item.shape), "per_token": item.per_token} for name, item in columns.items()},
        "holds": {kind: sorted(getattr(needs, kind)) for kind in ("hidden", "attention", "vectors")},
    }
    digest = sha256_value([facts, params.model_dump(mode="json")])
    budget = TokenBudget(params.batch_tokens, "signals.batch_tokens", "")
    parts = [rows[part] for part in cut_shards(dataset.lengths[rows], columns, params.dtype, params.shard_rows)]
    shards, sums = _Job(teacher, dataset, params, needs, columns, digest, budget).run(keys, parts, work)
    metadata = facts | {"format": FORMAT, "rows": len(rows), "shards": list(map(len, parts)), "fidelity": report(sums)}
    return Extracted(keys[rows], tuple(shards), metadata, len(dataset))


@dataclass(frozen=True)
class _Job:
    """An extraction; `digest` identifies the teacher and the settings in the manifests of its shards."""

    teacher: Source
    dataset: TokenDataset
    params: Signals
    needs: Needs
    columns: Mapping[str, Column]
    digest: str
    budget: TokenBudget

    def run(self, keys: Keys, parts: list[Ints], work: Path) -> tuple[list[Path], list[Any]]:
        """Return the folders of all shards and their sums of rounding errors, including those of an earlier run.

        Args:
            keys: [rows of the dataset] hash of each row's token ids.
            parts: the rows of each shard.
            work: see `extract`.
        """
        world = current_world()
        folders = [work / f"shard-{number:06d}" for number in range(len(parts))]
        shard_metadata = [{"of": self.digest, "keys": sha256(keys[part].tobytes()).hexdigest()} for part in parts]
        # Decided by one process: the others would also find shards that it has written in the meantime.
        earlier = world.run_on_first(lambda: _finished_shards(folders, shard_metadata))
        earlier_rows = sum(len(parts[number]) for number in earlier)
        if earlier_rows:
            say(f"signals: {earlier_rows:,} of {sum(map(len, parts)):,} rows are there from the run before")
        missing = [number for number in range(len(parts)) if number not in earlier][world.rank :: world.size]
        name = "signals" if world.is_single else f"signals, process 1 of {world.size}"
        sums: dict[int, Any] = {}
        rows = earlier_rows + sum(len(parts[number]) for number in missing)
        with progress(name, rows, "rows", done=earlier_rows) as bar:
            for number in missing:
                shard = PendingShard(self.dataset.lengths[parts[number]], self.columns, self.params.dtype)
                for count, arrays in self._batches(parts[number]):
                    shard.add(arrays)
                    bar.advance(count)
                shard.write(folders[number], shard_metadata[number])
                sums[number] = shard.errors
        all_sums = earlier | {number: value for written in world.gather(sums) for number, value in written.items()}
        return folders, [all_sums[number] for number in range(len(parts))]

    def _batches(self, rows: Ints) -> Iterator[tuple[int, dict[str, Floats]]]:
        """Yield the number of rows of each batch and its arrays [rows, ...] or [tokens, ...], in order."""
        for part in cut_batches(rows, self.dataset.lengths, self.params.batch_tokens):
            # A batch that does not fit in memory is run again from its start.
            yield from self.budget.run(lambda part=part: self._outputs(part), undo=lambda: None)  # type: ignore[misc]

    @torch.inference_mode()
    def _outputs(self, part: Ints) -> list[tuple[int, dict[str, Floats]]]:
        """Run the teacher on a batch, in several parts if the budget was halved."""
        results = []
        for rows in self.budget.fit([part], self.dataset.lengths):
            batch = self.dataset.batch(rows)
            outputs = self.teacher(batch, self.needs)
            mask = torch.from_numpy(batch.attention_mask).to(outputs.logits.device)
            real = mask != 0
            arrays = {
                name: (value[real] if self.columns[name].per_token else value).float().cpu().numpy()
                for name, value in to_arrays(outputs, self.needs, mask).items()
            }
            results.append((len(rows), arrays))
        return results


def _finished_shards(folders: list[Path], shard_metadata: list[dict[str, str]]) -> dict[int, Any]:
    """Number of each shard that an earlier run finished -> its sums of rounding errors."""
    manifests = [finished(folder, metadata) for folder, metadata in zip(folders, shard_metadata, strict=True)]
    return {number: manifest["fidelity"] for number, manifest in enumerate(manifests) if manifest is not None}


def write_store(folder: Path, extracted: Extracted) -> None:
    """Write a store of extracted shards and their index into an empty folder, its manifest last."""
    from safetensors.numpy import save_file

    for number, shard in enumerate(extracted.shards):
        # The work folder keeps its file until the stage has ended.
        link_file(shard / DATA, folder / shard_name(number))
    order = np.argsort(extracted.keys, kind="stable").astype(np.int64)
    keys = np.ascontiguousarray(extracted.keys[order]).view(np.uint8).reshape(-1, 16)
    save_file({"keys": keys, "rows": order}, folder / _INDEX)
    write_manifest(folder, extracted.metadata)


# --- reading ----------------------------------------------------------------------------------------------------------


class StoredSignals:
    """A source that reads a teacher's outputs for the rows of a dataset from a store or from memory.

    Args:
        logits: [stored rows, classes] in memory, or [stored rows] objects [tokens, outputs], or an array of a store.
        positions: [rows] index of each row of the dataset among the stored rows.
        layers: further arrays of a store, by name.
        holds: what these arrays contain.

    Attributes:
        name: name of the source for messages.
    """

    def __init__(
        self,
        logits: npt.NDArray[Any] | StoredColumn,
        positions: Ints,
        layers: Mapping[str, StoredColumn] | None = None,
        holds: Needs = LOGITS,
    ) -> None:
        self._arrays = {"logits": logits, **(layers or {})}
        self._positions = positions
        self._holds = holds
        self.name = "a store of logits" + (f", {described(holds)}" if holds else "")

    @classmethod
    def open(cls, folder: Path, dataset: TokenDataset, teacher: Path) -> StoredSignals:
        """Open a store and match its rows to a dataset by token ids.

        Args:
            folder: folder of the store.
            dataset: the rows to read signals for.
            teacher: folder of the teacher that the signals have to be from.

        Raises:
            SignalError: the store is from another teacher or tokenizer, or lacks rows of the dataset.
            ChecksumError: a file of the store was changed or truncated.
        """
        metadata = verify(folder)
        if metadata.get("format") != FORMAT:
            raise SignalError(f"the signals in {folder} were written in another form; run the signals stage again")
        for part, digest in teacher_identity(teacher).items():
            if metadata["teacher"][part] != digest:
                raise SignalError(
                    f"the signals in {folder} were made with another teacher's {part} than {teacher} holds; "
                    "run the signals stage again"
                )
        positions = _join(folder, dataset)
        shards = Shards(folder, metadata["shards"])
        arrays = {
            name: StoredColumn(shards, name, Column(tuple(column["shape"]), column["per_token"]))
            for name, column in metadata["columns"].items()
        }
        holds = Needs(**{kind: frozenset(numbers) for kind, numbers in metadata["holds"].items()})
        return cls(arrays.pop("logits"), positions, arrays, holds)

    def supports(self, needs: Needs) -> bool:
        """Whether the store contains what is needed beyond logits."""
        return needs.covered_by(self._holds)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Read the signals of a batch's rows in fp32; arrays with entries per token are padded with zeros.

        Raises:
            SignalError: the rows are mixed with others (mixup).
        """
        if isinstance(batch, MixedBatch):
            raise SignalError("the rows are mixed with others (mixup), which no store has; give a live teacher")
        rows = self._positions[batch.rows]
        sequence = batch.input_ids.shape[1]
        arrays = {}
        for name in names_of(needs, self._holds):
            array = self._arrays[name]
            values = array.read(rows, sequence) if isinstance(array, StoredColumn) else _read(array, rows, sequence)
            arrays[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
        return from_arrays(arrays)


def _read(array: npt.NDArray[Any], rows: Ints, sequence: int) -> npt.NDArray[Any]:
    """Read rows of an array in memory: [batch, ...], or objects padded with zeros to [batch, sequence, ...]."""
    selected = array[rows]
    if array.dtype.kind != "O":
        return selected
    padded = np.zeros((len(rows), sequence, *selected[0].shape[1:]), dtype=np.float32)
    for index, values in enumerate(selected):
        padded[index, : len(values)] = values
    return padded


def _join(folder: Path, dataset: TokenDataset) -> Ints:
    """Find the index in the store of each row of the dataset [rows].

    Raises:
        SignalError: the store lacks some rows.
    """
    index = mapped(folder / _INDEX)
    keys = index["keys"].numpy().reshape(-1).view("V16")
    dataset_keys = dataset.keys()
    matches = np.minimum(np.searchsorted(keys, dataset_keys), len(keys) - 1)
    missing = int((keys[matches] != dataset_keys).sum())
    if missing:
        raise SignalError(
            f"the signals in {folder} lack {missing:,} of {len(dataset_keys):,} rows (other token ids); "
            "run the signals stage again"
        )
    rows: Ints = index["rows"].numpy()[matches]
    return rows
