"""The teacher's outputs as data: computed once, keyed by weights, tokenizer and token ids, reused by every student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from potstill.artifacts import sha256_file, sha256_value, verify, write_manifest
from potstill.compute.distributed import current_world
from potstill.config.teacher_params import Signals
from potstill.data.tokens.batches import Batch, Ints, TokenDataset, cut
from potstill.data.tokens.token_budget import TokenBudget
from potstill.distillation.teachers.fidelity import report
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.providers import Source
from potstill.distillation.teachers.shards import (
    Floats,
    Pending,
    Shards,
    StoredColumn,
    cut_shards,
    finished,
    link,
    mapped,
)
from potstill.distillation.teachers.signal_arrays import Column, chosen, columns_of, described, give, names_of, take
from potstill.errors import EmptyDataError, SignalError
from potstill.models.mixup import MixedBatch
from potstill.pretrained.members import MEMBERS
from potstill.progress import progress, say

Keys = npt.NDArray[np.bytes_]

FORMAT = 2
_INDEX = "index.safetensors"


def teacher_identity(folder: Path) -> dict[str, str]:
    """What a teacher's outputs depend on beside the token ids: its weights, config and tokenizer, as sha256.

    Of an ensemble the weights are those of all members, but not how much each counts.
    """
    files = [*folder.glob("*.safetensors"), *folder.glob(f"{MEMBERS}/*/*.safetensors"), folder / "config.json"]
    files += folder.glob(f"{MEMBERS}/*/*.json")
    weights = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    return {"weights": sha256_value(weights), "tokenizer": sha256_file(folder / "tokenizer.json")}


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extracted:
    """Shards that a teacher's outputs were written to, and what a store of them says of itself.

    Attributes:
        keys: [stored] identity of each row's tokens, in the order of the shards.
        shards: their folders, in order.
        about: of the store's manifest.
        rows: rows of the dataset, copies counted.
    """

    keys: Keys
    shards: tuple[Path, ...]
    about: dict[str, Any]
    rows: int

    @property
    def fidelity(self) -> dict[str, Any]:
        """See `fidelity.report`."""
        found: dict[str, Any] = self.about["fidelity"]
        return found


def distinct_rows(dataset: TokenDataset, keys: Keys) -> Ints:
    """The first row of each distinct key, so that a teacher never runs twice on the same tokens; longest rows first.

    Rows of similar length meet in a batch then, and a budget that does not fit in memory fails at once.
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
    made: Mapping[str, str] | None = None,
) -> Extracted:
    """Run a teacher over the distinct rows of a dataset, shard by shard.

    An extraction that was cut short goes on behind the shards that it finished, and ends with the same bytes. Memory
    is that of a shard and of a batch, whatever the number of rows. Processes started by `torchrun` take turns at the
    shards; each returns when all are there.

    Args:
        teacher: a live teacher, or several as one.
        dataset: the rows.
        params: what is stored, in which form, and the sizes of batches and shards.
        identity: see `teacher_identity`.
        work: folder of the finished shards, which all processes see; the caller removes it when the store is written.
        made: what else the numbers depend on: the device, the number format of the products.

    Raises:
        SignalError: the teacher cannot give what is to be stored, or gives numbers that cannot be.
        EmptyDataError: there are no rows.
        TrainingError: the memory does not hold a batch; an accelerator's was tried once more with half the tokens.
    """
    if not len(dataset):
        raise EmptyDataError("there are no rows to run the teacher on; add some to train or transfer")
    needs = chosen(params)
    keys = dataset.keys()
    rows = distinct_rows(dataset, keys)
    with torch.inference_mode():
        columns = columns_of(teacher, dataset.batch(rows[:1]), needs)
    facts = {
        "teacher": dict(identity),
        "made": dict(made or {}),
        "dtype": params.dtype,
        "columns": {name: {"shape": list(to.shape), "per_token": to.per_token} for name, to in columns.items()},
        "holds": {kind: sorted(getattr(needs, kind)) for kind in ("hidden", "attention", "vectors")},
    }
    of = sha256_value([facts, params.model_dump(mode="json")])
    budget = TokenBudget(params.batch_tokens, "signals.batch_tokens", beside="")
    job = _Job(teacher, dataset, params, needs, columns, of, budget)
    shards, sums = job.run(keys, rows, work)
    counts = [stop.stop - stop.start for stop in job.slices(rows)]
    about = facts | {"format": FORMAT, "rows": len(rows), "shards": counts, "fidelity": report(sums)}
    return Extracted(keys[rows], tuple(shards), about, len(dataset))


@dataclass(frozen=True)
class _Job:
    """One extraction: what every shard of it has in common."""

    teacher: Source
    dataset: TokenDataset
    params: Signals
    needs: Needs
    columns: Mapping[str, Column]
    of: str
    budget: TokenBudget

    def slices(self, rows: Ints) -> list[slice]:
        return cut_shards(self.dataset.lengths[rows], self.columns, self.params.dtype, self.params.shard_rows)

    def run(self, keys: Keys, rows: Ints, work: Path) -> tuple[list[Path], list[Any]]:
        """The shards' folders and their sums of fidelity, those of an earlier run among them."""
        world = current_world()
        parts = [rows[where] for where in self.slices(rows)]
        folders = [work / f"shard-{number:06d}" for number in range(len(parts))]
        abouts = [{"of": self.of, "keys": sha256(keys[part].tobytes()).hexdigest()} for part in parts]
        # Decided once: the others would take for known what the first has written in the meantime.
        known = world.run_on_first(lambda: _known(folders, abouts))
        done = sum(len(parts[number]) for number in known)
        if done:
            say(f"signals: {done:,} of {len(rows):,} rows are there from the run before")
        left = [number for number in range(len(parts)) if number not in known][world.rank :: world.size]
        name = "signals" if world.is_single else f"signals, process 1 of {world.size}"
        sums: dict[int, Any] = {}
        with progress(name, done + sum(len(parts[number]) for number in left), "rows", done=done) as bar:
            for number in left:
                shard = Pending(self.dataset.lengths[parts[number]], self.columns, self.params.dtype)
                for count, answers in self._answers(parts[number]):
                    shard.add(answers)
                    bar.advance(count)
                shard.write(folders[number], abouts[number])
                sums[number] = shard.fidelity.sums
        everything = known | {number: value for found in world.gather(sums) for number, value in found.items()}
        return folders, [everything[number] for number in range(len(parts))]

    def _answers(self, rows: Ints) -> Iterator[tuple[int, dict[str, Floats]]]:
        """Batch by batch, in the order of the rows: how many, and the arrays [rows, ...] or [tokens, ...]."""
        for part in cut(rows, self.dataset.lengths, self.params.batch_tokens):
            # What was answered of a batch that did not fit is asked once more.
            yield from self.budget.within(lambda part=part: self._asked(part), undo=lambda: None)  # type: ignore[misc]

    @torch.inference_mode()
    def _asked(self, part: Ints) -> list[tuple[int, dict[str, Floats]]]:
        """The answers to a batch, in parts where the budget was halved."""
        found = []
        for rows in self.budget.fit([part], self.dataset.lengths):
            batch = self.dataset.batch(rows)
            outputs = self.teacher(batch, self.needs)
            mask = torch.from_numpy(batch.attention_mask).to(outputs.logits.device)
            real = mask != 0
            answers = {
                name: (value[real] if self.columns[name].per_token else value).float().cpu().numpy()
                for name, value in take(outputs, self.needs, mask).items()
            }
            found.append((len(rows), answers))
        return found


def _known(folders: list[Path], abouts: list[dict[str, str]]) -> dict[int, Any]:
    """Number of each shard that an earlier run finished -> its sums of fidelity."""
    found = [finished(folder, about) for folder, about in zip(folders, abouts, strict=True)]
    return {number: about["fidelity"] for number, about in enumerate(found) if about is not None}


def write_store(folder: Path, extracted: Extracted) -> None:
    """Put extracted shards and their index into an empty folder, manifest last."""
    from safetensors.numpy import save_file

    for number, shard in enumerate(extracted.shards):
        link(shard, folder, number)
    order = np.argsort(extracted.keys, kind="stable").astype(np.int64)
    keys = np.ascontiguousarray(extracted.keys[order]).view(np.uint8).reshape(-1, 16)
    save_file({"keys": keys, "rows": order}, folder / _INDEX)
    write_manifest(folder, extracted.about)


# --- reading ----------------------------------------------------------------------------------------------------------


class StoredSignals:
    """A source of teacher outputs: those of a store, in the order of a dataset's rows.

    Args:
        logits: [stored, classes] in memory, or [stored] objects [tokens, outputs]; or an array of a store.
        positions: [rows] place of each row of the dataset among what is stored.
        layers: further arrays of a store, by name.
        holds: what these are.

    Attributes:
        name: as a sentence calls it.
    """

    def __init__(
        self,
        logits: npt.NDArray[Any] | StoredColumn,
        positions: Ints,
        layers: Mapping[str, StoredColumn] | None = None,
        holds: Needs = LOGITS,
    ) -> None:
        self._arrays = {"logits": logits, **(layers or {})}
        self._positions, self._holds = positions, holds
        self.name = "a store of logits" + (f", {described(holds)}" if holds else "")

    @classmethod
    def open(cls, folder: Path, dataset: TokenDataset, teacher: Path) -> StoredSignals:
        """Map a store and join it to a dataset by token ids.

        Raises:
            SignalError: the store is another teacher's or tokenizer's, or lacks rows of the dataset.
            ChecksumError: a file of the store was altered or cut short.
        """
        about = verify(folder)
        if about.get("format") != FORMAT:
            raise SignalError(f"the signals in {folder} were written in another form; run the signals stage again")
        for part, identity in teacher_identity(teacher).items():
            if about["teacher"][part] != identity:
                raise SignalError(
                    f"the signals in {folder} were made with another teacher's {part} than {teacher} holds; "
                    "run the signals stage again"
                )
        positions = _join(folder, dataset)
        shards = Shards(folder, about["shards"])
        arrays = {
            name: StoredColumn(shards, name, Column(tuple(column["shape"]), column["per_token"]))
            for name, column in about["columns"].items()
        }
        holds = Needs(**{kind: frozenset(numbers) for kind, numbers in about["holds"].items()})
        return cls(arrays.pop("logits"), positions, arrays, holds)

    def supports(self, needs: Needs) -> bool:
        """Whether that was stored."""
        return needs.within(self._holds)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """What is stored of the batch's dataset rows, fp32: per-token arrays padded with zeros as the batch is.

        Raises:
            SignalError: the rows are blends of others.
        """
        if isinstance(batch, MixedBatch):
            raise SignalError("the rows are blends of others (mixup), which no store knows; give a live teacher")
        rows, sequence = self._positions[batch.rows], batch.input_ids.shape[1]
        found = {}
        for name in names_of(needs, self._holds):
            array = self._arrays[name]
            values = array.read(rows, sequence) if isinstance(array, StoredColumn) else _read(array, rows, sequence)
            found[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
        return give(found)


def _read(array: npt.NDArray[Any], rows: Ints, sequence: int) -> npt.NDArray[Any]:
    """Rows of an array in memory: [batch, ...], or of objects [batch, sequence, ...] with zeros behind each."""
    found = array[rows]
    if array.dtype.kind != "O":
        return found
    padded = np.zeros((len(rows), sequence, *found[0].shape[1:]), dtype=np.float32)
    for place, values in enumerate(found):
        padded[place, : len(values)] = values
    return padded


def _join(folder: Path, dataset: TokenDataset) -> Ints:
    """[rows] place of each row of the dataset in the store.

    Raises:
        SignalError: the store lacks some.
    """
    index = mapped(folder / _INDEX)
    keys = index["keys"].numpy().reshape(-1).view("V16")
    wanted = dataset.keys()
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    missing = int((keys[found] != wanted).sum())
    if missing:
        raise SignalError(
            f"the signals in {folder} lack {missing:,} of {len(wanted):,} rows (other token ids); "
            "run the signals stage again"
        )
    rows: Ints = index["rows"].numpy()[found]
    return rows
