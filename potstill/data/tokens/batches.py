"""Token ids from Arrow files, memory-mapped, and batches of similar length under a token budget."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from potstill.config.base import TaskKind
from potstill.data.tokens.offsets import IGNORED, flat_labels
from potstill.errors import FormatError

Ints = npt.NDArray[np.int64]
# Gold labels in the form that the task gives them; -1 (integers) or NaN (floats) is none:
# [rows] int64 class index; [rows, labels] int64 0 or 1; [rows] float32 value; [rows] objects, each [tokens] int64 class
# index (-100: the token is asked nothing); [rows] SPAN, first and last token of an answer.
Labels = npt.NDArray[Any]
TOKEN_LABELS = pa.list_(pa.int16())
TOKEN_SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])
SPAN = np.dtype([("start", np.int64), ("end", np.int64)])

# Rows are shuffled first and sorted by length only within a pool of this many batches: enough to save nearly all
# padding, few enough that which rows meet in a batch stays random.
POOL_BATCHES = 50
# Rows whose tokens are gone through together.
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Batch:
    """Rows padded to the longest of them.

    Attributes:
        rows: [batch] indices into the dataset.
        input_ids: [batch, sequence] token ids, padded.
        attention_mask: [batch, sequence], 1 on real tokens.
        token_type_ids: [batch, sequence] segment ids; None unless the dataset holds pairs.
        labels: [batch, ...] gold labels in the task's form; where tokens answer, [answers] one each, and of spans
            [batch, 2] first and last token.
        answers: [batch, sequence] which tokens answer; None where rows do.
    """

    rows: Ints
    input_ids: Ints
    attention_mask: Ints
    token_type_ids: Ints | None
    labels: Labels
    answers: npt.NDArray[np.bool_] | None = None

    @property
    def gold(self) -> npt.NDArray[np.bool_]:
        """[batch] whether a row has a gold label; where tokens answer, [answers]."""
        return labelled(self.labels)

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.attention_mask.sum())


class Flat:
    """Several flat arrays as one long one, none of them copied: the chunks of a mapped file, and file after file.

    Args:
        parts: [numbers] arrays of one type; a row of a dataset lies in one of them.
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        self.parts = tuple(part for part in parts if len(part))
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.parts else 0

    def __getitem__(self, places: Ints) -> npt.NDArray[Any]:
        """The numbers at these places; fast where neighbours lie in one part."""
        if len(self.parts) == 1 or not len(places):
            return self.parts[0][places] if self.parts else np.empty(0, dtype=np.int64)
        owners = np.searchsorted(self._ends, places, side="right")
        found = np.empty(len(places), dtype=self.parts[0].dtype)
        for begin, end in pairwise([0, *(np.flatnonzero(np.diff(owners)) + 1), len(places)]):
            part = self.parts[owners[begin]]
            found[begin:end] = part[places[begin:end] - (self._ends[owners[begin]] - len(part))]
        return found

    def rows(self, starts: Ints, lengths: Ints) -> Iterator[memoryview]:
        """The bytes of each row."""
        if not self.parts:
            yield from (memoryview(b"") for _ in starts)
            return
        views = [np.ascontiguousarray(part).data.cast("B") for part in self.parts]
        size = self.parts[0].itemsize
        # An empty row at the very end starts behind the last part.
        owners = np.minimum(np.searchsorted(self._ends, starts, side="right"), len(views) - 1)
        firsts = self._ends - [len(part) for part in self.parts]
        begins = (starts - firsts[owners]) * size
        for owner, begin, length in zip(owners.tolist(), begins.tolist(), (lengths * size).tolist(), strict=True):
            yield views[owner][begin : begin + length]


class TokenDataset:
    """Rows of token ids without padding, in flat arrays over the mapped file.

    Selecting and concatenating copies no token: what grows with the rows is their starts, lengths and labels.

    Args:
        flat: the token ids of all rows.
        lengths: see below.
        types: the segment ids, at the same places.
        labels: see below.
        pad: token id of padding.
        starts: [rows] where in `flat` each row starts; None: one after the other.
        texts: [rows] number of the text that each row is a window of; None: each row is a text.

    Attributes:
        labels: [rows, ...] gold labels in the task's form.
        lengths: [rows] tokens of each row, special tokens included.
    """

    def __init__(
        self,
        flat: npt.NDArray[np.int32] | Flat,
        lengths: Ints,
        types: npt.NDArray[np.int8] | Flat | None,
        labels: Labels,
        pad: int,
        starts: Ints | None = None,
        texts: Ints | None = None,
    ) -> None:
        self._flat = flat if isinstance(flat, Flat) else Flat([flat])
        self._types = Flat([types]) if isinstance(types, np.ndarray) else types
        self._pad = pad
        self.lengths, self.labels, self._texts = lengths, labels, texts
        self._starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64) if starts is None else starts

    @classmethod
    def open(cls, path: Path, pad_token_id: int) -> TokenDataset:
        """Map one split written by the tokenize stage.

        Raises:
            FormatError: the file is not such an Arrow stream.
        """
        try:
            table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
            ids, lengths = mapped_lists(table, "input_ids", np.int32)
            typed = "token_type_ids" in table.column_names
            types = mapped_lists(table, "token_type_ids", np.int8)[0] if typed else None
            labels = label_array(table.column("label"))
            texts = _texts(table.column("id")) if table.schema.field("label").type == TOKEN_LABELS else None
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise FormatError(
                f"{path} is not an Arrow file of token ids ({error}); run the tokenize stage again"
            ) from error
        return cls(ids, lengths, types, labels, pad_token_id, texts=texts)

    @classmethod
    def concatenate(cls, parts: Sequence[TokenDataset]) -> TokenDataset:
        """The rows of all parts, in order."""
        types = [part._types for part in parts if part._types is not None]
        before = np.cumsum([0, *(len(part._flat) for part in parts)])
        return cls(
            Flat([piece for part in parts for piece in part._flat.parts]),
            np.concatenate([part.lengths for part in parts]),
            Flat([piece for part in types for piece in part.parts]) if types else None,
            np.concatenate([part.labels for part in parts]),
            parts[0]._pad,
            np.concatenate([part._starts + first for part, first in zip(parts, before[:-1], strict=True)]),
            _joined([part._texts for part in parts]),
        )

    def select(self, rows: Ints) -> TokenDataset:
        """The given rows, in that order."""
        return TokenDataset(
            self._flat, self.lengths[rows], self._types, self.labels[rows], self._pad, self._starts[rows],
            None if self._texts is None else self._texts[rows],
        )  # fmt: skip

    @cached_property
    def whole_labels(self) -> Labels:
        """Gold labels as they are scored: of windows of texts with entities, those of a text one after the other.

        Each unit is asked of one window, so that an entity at a border is whole again.
        """
        if self._texts is None or not len(self):
            return self.labels
        ends = np.flatnonzero(np.diff(self._texts)) + 1
        return ragged([np.concatenate(part) for part in np.split(self.labels, ends)])

    def with_labels(self, labels: Labels) -> TokenDataset:
        """The same rows with other gold labels."""
        return TokenDataset(self._flat, self.lengths, self._types, labels, self._pad, self._starts, self._texts)

    def __len__(self) -> int:
        return len(self.lengths)

    def token_counts(self) -> Ints:
        """[highest id + 1] how often each token id occurs."""
        found = np.zeros(0, dtype=np.int64)
        for ids, _ in self._tokens():
            more = np.bincount(ids, minlength=len(found)).astype(np.int64)
            more[: len(found)] += found
            found = more
        return found

    def share_beyond(self, ids: Ints) -> tuple[float, float]:
        """The share of tokens that are not among these ids, and of rows that have one; 0 where there are no rows."""
        tokens, rows = 0, 0
        for found, owners in self._tokens():
            beyond = ~np.isin(found, ids)
            tokens += int(beyond.sum())
            rows += len(np.unique(owners[beyond]))
        return tokens / max(int(self.lengths.sum()), 1), rows / max(len(self), 1)

    def _tokens(self) -> Iterator[tuple[npt.NDArray[Any], Ints]]:
        """[tokens] ids of the next rows, and the row of each."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            lengths = self.lengths[start : start + ROWS_AT_ONCE]
            owners = np.repeat(np.arange(len(lengths)), lengths)
            within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield self._flat[self._starts[start : start + ROWS_AT_ONCE][owners] + within], owners

    def keys(self) -> npt.NDArray[np.bytes_]:
        """[rows] 16-byte hash of each row's exact token ids (and segment ids): the row's identity for signals."""
        found = bytearray(16 * len(self))
        segments = None if self._types is None else self._types.rows(self._starts, self.lengths)
        for row, ids in enumerate(self._flat.rows(self._starts, self.lengths)):
            digest = hashlib.blake2b(ids, digest_size=16)
            if segments is not None:
                digest.update(next(segments))
            found[16 * row : 16 * row + 16] = digest.digest()
        return np.frombuffer(found, dtype="V16")

    def batch(self, rows: Ints) -> Batch:
        """Pad the given rows to the longest of them."""
        lengths = self.lengths[rows]
        columns = np.arange(int(lengths.max(initial=1)))
        real = columns[None, :] < lengths[:, None]
        source = self._starts[rows][:, None] + columns[None, :]
        ids = np.full(real.shape, self._pad, dtype=np.int64)
        ids[real] = self._flat[source[real]]
        types = None
        if self._types is not None:
            types = np.zeros(real.shape, dtype=np.int64)
            types[real] = self._types[source[real]]
        labels, answers = self.labels[rows], None
        if labels.dtype == SPAN:
            labels, answers = np.stack([labels["start"], labels["end"]], axis=1), real
        elif labels.dtype.kind == "O":
            labels = flat_labels(labels)
            answers = np.zeros(real.shape, dtype=np.bool_)
            answers[real] = labels != IGNORED
            labels = labels[labels != IGNORED]
        return Batch(rows, ids, real.astype(np.int64), types, labels, answers)


def labelled(labels: Labels) -> npt.NDArray[np.bool_]:
    """[rows] whether each has a gold label, of a label column [rows, ...]."""
    if labels.dtype == SPAN:
        return np.asarray(labels["start"] >= 0)
    if labels.dtype.kind == "O":
        return np.array([bool((row >= 0).any()) for row in labels], dtype=np.bool_)
    known: npt.NDArray[np.bool_] = ~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0
    return np.asarray(known.any(axis=tuple(range(1, known.ndim))), dtype=np.bool_)


def label_type(task: TaskKind, labels: int) -> pa.DataType:
    """The type of the column `label` of `data/tokens`: what tells a task's form of labels.

    Args:
        task: of the data.
        labels: outputs of its models.
    """
    forms = {
        "multi_label": pa.list_(pa.int8(), labels),
        "regression": pa.float32(),
        "token_classification": TOKEN_LABELS,
        "question_answering": TOKEN_SPAN,
    }
    return forms.get(task, pa.int64())


def fill_labels(column: pa.Array, form: pa.DataType) -> pa.Array:
    """A label column of `data/prepared` as one of `data/tokens`, with the mark of no label in place of nulls."""
    if pa.types.is_fixed_size_list(form):
        none = [-1] * form.list_size
        return pa.array([none if row is None else row for row in column.to_pylist()], form)
    return column.fill_null(float("nan") if pa.types.is_floating(form) else -1)


def ragged(rows: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """[rows] objects, each an array of a length of its own: what is said where tokens answer."""
    found = np.empty(len(rows), dtype=object)
    found[:] = rows
    return found


def label_array(column: pa.ChunkedArray) -> Labels:
    """[rows, ...] labels of a column of `data/tokens`, or of one of `data/prepared` without nulls."""
    combined = _combined(column)
    kind = combined.type
    found: Labels
    if pa.types.is_struct(kind):
        found = np.empty(len(combined), dtype=SPAN)
        for side in ("start", "end"):
            found[side] = combined.field(side).to_numpy()
        return found
    if kind == TOKEN_LABELS:
        ends = np.cumsum(combined.value_lengths().to_numpy()).tolist()
        flat = combined.flatten().to_numpy().astype(np.int64)
        lengths = combined.value_lengths().to_pylist()
        return ragged([flat[end - length : end] for end, length in zip(ends, lengths, strict=True)])
    if pa.types.is_fixed_size_list(kind):
        found = combined.flatten().to_numpy().astype(np.int64).reshape(-1, kind.list_size)
    elif pa.types.is_list(kind):
        found = np.array(combined.to_pylist(), dtype=np.int64)
    else:
        found = combined.to_numpy(zero_copy_only=False).astype(np.float32 if pa.types.is_floating(kind) else np.int64)
    return found


def label_column(labels: Labels) -> pa.Array:
    """Gold labels [rows, ...], none missing, as a column of the form of `data/prepared`."""
    return pa.array(labels) if labels.ndim == 1 else pa.array(labels.tolist(), pa.list_(pa.int8()))


def _combined(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    # Arrow gives a chunked array without chunks for a column without rows.
    return combined if not isinstance(combined, pa.ChunkedArray) else pa.array([], type=combined.type)


def _texts(column: pa.ChunkedArray) -> Ints:
    """[rows] number of the text of each row, from ids of texts whose windows follow each other."""
    ids = _combined(column)
    other = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([np.zeros(min(len(ids), 1), dtype=np.int64), np.cumsum(other)])


def _joined(parts: Sequence[Ints | None]) -> Ints | None:
    """Numbers of texts over several datasets, no two of which share a text."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    before = np.cumsum([0, *(int(part.max(initial=-1)) + 1 for part in known)])
    return np.concatenate([part + first for part, first in zip(known, before[:-1], strict=True)])


def mapped_lists(table: pa.Table, name: str, kind: npt.DTypeLike) -> tuple[Flat, Ints]:
    """A column of lists: its numbers chunk by chunk, in the mapped file, and the length of each list."""
    chunks = table.column(name).chunks
    lengths = [chunk.value_lengths().to_numpy().astype(np.int64) for chunk in chunks]
    flat = Flat([chunk.flatten().to_numpy().astype(kind, copy=False) for chunk in chunks])
    return flat, np.concatenate([*lengths, np.empty(0, dtype=np.int64)])


def cut(order: Ints, lengths: Ints, batch_tokens: int) -> list[Ints]:
    """Cut rows, in the given order, into batches whose padded size (rows x longest row) stays within the budget.

    A single row longer than the budget makes a batch of its own.
    """
    batches: list[Ints] = []
    start, longest = 0, 0
    for position, row in enumerate(order):
        longest = max(longest, int(lengths[row]))
        if position > start and (position - start + 1) * longest > batch_tokens:
            batches.append(order[start:position])
            start, longest = position, int(lengths[row])
    if start < len(order):
        batches.append(order[start:])
    return batches


def sorted_batches(lengths: Ints, batch_tokens: int) -> list[Ints]:
    """Batches for inference: longest first, so that a budget that does not fit in memory fails at once."""
    return cut(np.argsort(-lengths, kind="stable").astype(np.int64), lengths, batch_tokens)


def shuffled_batches(lengths: Ints, batch_tokens: int, *, seed: int, epoch: int) -> list[Ints]:
    """Batches of one training epoch: a pure function of seed and epoch, so that a resumed run sees the same ones."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths)).astype(np.int64)
    mean = max(float(lengths.mean()), 1.0) if len(lengths) else 1.0
    pool = max(int(POOL_BATCHES * batch_tokens / mean), 1)
    batches: list[Ints] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        batches += cut(rows[np.argsort(lengths[rows], kind="stable")], lengths, batch_tokens)
    return [batches[index] for index in random.permutation(len(batches))]
