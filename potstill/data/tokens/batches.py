"""Memory-mapped token ids from Arrow files, in batches of similar length under a token budget."""

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

from potstill.errors import FormatError
from potstill.labels.offsets import IGNORED, flat_labels

Ints = npt.NDArray[np.int64]
# Gold labels in the form of their task, where -1 (integers) or NaN (floats) is a missing label:
# single_label [rows] int64 class index; multi_label [rows, labels] int64 0 or 1; regression [rows] float32;
# token_classification [rows] objects, each [tokens] int64 class index, or IGNORED for a token without an answer;
# question_answering [rows] SPAN, the first and last token of an answer.
Labels = npt.NDArray[Any]
TOKEN_LABELS = pa.list_(pa.int16())
TOKEN_SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])
SPAN = np.dtype([("start", np.int64), ("end", np.int64)])

# Shuffled rows are sorted by length only within pools of this many batches. This saves nearly all padding, and batches
# stay random.
POOL_BATCHES = 50
# Rows whose tokens are processed together.
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Batch:
    """Rows padded to the longest of them.

    Attributes:
        rows: [batch] indices into the dataset.
        input_ids: [batch, sequence] token ids, padded.
        attention_mask: [batch, sequence], 1 on real tokens.
        token_type_ids: [batch, sequence] segment ids; None unless the dataset holds pairs.
        labels: gold labels in the task's form: [batch, ...] for rows, [answers] for tokens, [batch, 2] first and last
            token for spans.
        answers: [batch, sequence] the tokens that have answers; None for tasks whose rows do.
    """

    rows: Ints
    input_ids: Ints
    attention_mask: Ints
    token_type_ids: Ints | None
    labels: Labels
    answers: npt.NDArray[np.bool_] | None = None

    @property
    def gold(self) -> npt.NDArray[np.bool_]:
        """[batch], or [answers] for tasks whose tokens have answers: whether there is a gold label."""
        return has_label(self.labels)

    @property
    def tokens(self) -> int:
        """The number of real tokens, without padding."""
        return int(self.attention_mask.sum())


class ArrayChunks:
    """Several arrays that are indexed as one, without copying them: the chunks of mapped files.

    Args:
        parts: [numbers] arrays of one type. A row of a dataset lies within one of them.
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        self.parts = tuple(part for part in parts if len(part))
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.parts else 0

    def __getitem__(self, indices: Ints) -> npt.NDArray[Any]:
        """Select numbers. This is fast if neighbours lie in one part."""
        if len(self.parts) == 1 or not len(indices):
            return self.parts[0][indices] if self.parts else np.empty(0, dtype=np.int64)
        owners = np.searchsorted(self._ends, indices, side="right")
        numbers = np.empty(len(indices), dtype=self.parts[0].dtype)
        for begin, end in pairwise([0, *(np.flatnonzero(np.diff(owners)) + 1), len(indices)]):
            part = self.parts[owners[begin]]
            numbers[begin:end] = part[indices[begin:end] - (self._ends[owners[begin]] - len(part))]
        return numbers

    def rows(self, starts: Ints, lengths: Ints) -> Iterator[memoryview]:
        """Yield the bytes of each row."""
        if not self.parts:
            yield from (memoryview(b"") for _ in starts)
            return
        views = [np.ascontiguousarray(part).data.cast("B") for part in self.parts]
        size = self.parts[0].itemsize
        # An empty row at the very end starts after the last part.
        owners = np.minimum(np.searchsorted(self._ends, starts, side="right"), len(views) - 1)
        firsts = self._ends - [len(part) for part in self.parts]
        begins = (starts - firsts[owners]) * size
        for owner, begin, length in zip(owners.tolist(), begins.tolist(), (lengths * size).tolist(), strict=True):
            yield views[owner][begin : begin + length]


class TokenDataset:
    """Rows of token ids without padding, in flat arrays over the mapped file.

    Selecting and concatenating rows copies no tokens, only their starts, lengths and labels.

    Args:
        flat: the token ids of all rows.
        lengths: see below.
        types: the segment ids, at the same indices.
        labels: see below.
        pad: token id of padding.
        starts: [rows] index in `flat` of each row's first token; None: rows follow each other.
        texts: [rows] number of the text of which a row is a window; None: each row is a text.

    Attributes:
        labels: [rows, ...] gold labels in the task's form.
        lengths: [rows] tokens of each row, special tokens included.
    """

    def __init__(
        self,
        flat: npt.NDArray[np.int32] | ArrayChunks,
        lengths: Ints,
        types: npt.NDArray[np.int8] | ArrayChunks | None,
        labels: Labels,
        pad: int,
        starts: Ints | None = None,
        texts: Ints | None = None,
    ) -> None:
        self._flat = flat if isinstance(flat, ArrayChunks) else ArrayChunks([flat])
        self._types = ArrayChunks([types]) if isinstance(types, np.ndarray) else types
        self._pad = pad
        self.lengths = lengths
        self.labels = labels
        self._texts = texts
        self._starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64) if starts is None else starts

    @classmethod
    def open(cls, path: Path, pad_token_id: int) -> TokenDataset:
        """Map a split that the tokenize stage wrote.

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
        """Concatenate the rows of all parts."""
        types = [part._types for part in parts if part._types is not None]
        offsets = np.cumsum([0, *(len(part._flat) for part in parts)])
        return cls(
            ArrayChunks([piece for part in parts for piece in part._flat.parts]),
            np.concatenate([part.lengths for part in parts]),
            ArrayChunks([piece for part in types for piece in part.parts]) if types else None,
            np.concatenate([part.labels for part in parts]),
            parts[0]._pad,
            np.concatenate([part._starts + offset for part, offset in zip(parts, offsets[:-1], strict=True)]),
            _concatenate_texts([part._texts for part in parts]),
        )

    def select(self, rows: Ints) -> TokenDataset:
        """Select rows, in the given order."""
        return TokenDataset(
            self._flat, self.lengths[rows], self._types, self.labels[rows], self._pad, self._starts[rows],
            None if self._texts is None else self._texts[rows],
        )  # fmt: skip

    @cached_property
    def whole_labels(self) -> Labels:
        """Gold labels as they are scored. Those of windows of a text with entities are joined.

        Only one window answers for each unit, so an entity at a border is whole again.
        """
        if self._texts is None or not len(self):
            return self.labels
        ends = np.flatnonzero(np.diff(self._texts)) + 1
        return ragged([np.concatenate(part) for part in np.split(self.labels, ends)])

    def with_labels(self, labels: Labels) -> TokenDataset:
        """Copy the dataset with other gold labels."""
        return TokenDataset(self._flat, self.lengths, self._types, labels, self._pad, self._starts, self._texts)

    def __len__(self) -> int:
        return len(self.lengths)

    def token_counts(self) -> Ints:
        """Count the occurrences of each token id: [highest id + 1]."""
        counts = np.zeros(0, dtype=np.int64)
        for ids, _ in self._tokens():
            more = np.bincount(ids, minlength=len(counts)).astype(np.int64)
            more[: len(counts)] += counts
            counts = more
        return counts

    def share_beyond(self, vocabulary: Ints) -> tuple[float, float]:
        """Compute the share of tokens that are not in a vocabulary, and of rows with such a token; 0 without rows."""
        tokens = 0
        rows = 0
        for ids, owners in self._tokens():
            beyond = ~np.isin(ids, vocabulary)
            tokens += int(beyond.sum())
            rows += len(np.unique(owners[beyond]))
        return tokens / max(int(self.lengths.sum()), 1), rows / max(len(self), 1)

    def _tokens(self) -> Iterator[tuple[npt.NDArray[Any], Ints]]:
        """Yield [tokens] ids of the next rows, and the row of each."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            lengths = self.lengths[start : start + ROWS_AT_ONCE]
            owners = np.repeat(np.arange(len(lengths)), lengths)
            within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield self._flat[self._starts[start : start + ROWS_AT_ONCE][owners] + within], owners

    def keys(self) -> npt.NDArray[np.bytes_]:
        """Hash each row's token ids and segment ids to 16 bytes: [rows], the row's identity for signals."""
        keys = bytearray(16 * len(self))
        segments = None if self._types is None else self._types.rows(self._starts, self.lengths)
        for row, ids in enumerate(self._flat.rows(self._starts, self.lengths)):
            digest = hashlib.blake2b(ids, digest_size=16)
            if segments is not None:
                digest.update(next(segments))
            keys[16 * row : 16 * row + 16] = digest.digest()
        return np.frombuffer(keys, dtype="V16")

    def batch(self, rows: Ints) -> Batch:
        """Pad rows to the longest of them."""
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
        labels = self.labels[rows]
        answers = None
        if labels.dtype == SPAN:
            labels = np.stack([labels["start"], labels["end"]], axis=1)
            answers = real
        elif labels.dtype.kind == "O":
            labels = flat_labels(labels)
            answers = np.zeros(real.shape, dtype=np.bool_)
            answers[real] = labels != IGNORED
            labels = labels[labels != IGNORED]
        return Batch(rows, ids, real.astype(np.int64), types, labels, answers)


def has_label(labels: Labels) -> npt.NDArray[np.bool_]:
    """Tell for each row of a label column [rows, ...] whether it has a gold label: [rows]."""
    if labels.dtype == SPAN:
        return np.asarray(labels["start"] >= 0)
    if labels.dtype.kind == "O":
        return np.array([bool((row >= 0).any()) for row in labels], dtype=np.bool_)
    known: npt.NDArray[np.bool_] = ~np.isnan(labels) if labels.dtype.kind == "f" else labels >= 0
    return np.asarray(known.any(axis=tuple(range(1, known.ndim))), dtype=np.bool_)


def fill_labels(column: pa.Array, form: pa.DataType) -> pa.Array:
    """Convert a label column of `data/prepared` to one of `data/tokens`. Nulls become -1 or NaN."""
    if pa.types.is_fixed_size_list(form):
        none = [-1] * form.list_size
        return pa.array([none if row is None else row for row in column.to_pylist()], form)
    return column.fill_null(float("nan") if pa.types.is_floating(form) else -1)


def ragged(rows: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Put arrays of different lengths into an array of objects: [rows]."""
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


def label_array(column: pa.ChunkedArray) -> Labels:
    """Convert a column of `data/tokens`, or one of `data/prepared` without nulls, to labels [rows, ...]."""
    combined = _combined(column)
    kind = combined.type
    labels: Labels
    if pa.types.is_struct(kind):
        labels = np.empty(len(combined), dtype=SPAN)
        for side in ("start", "end"):
            labels[side] = combined.field(side).to_numpy()
        return labels
    if kind == TOKEN_LABELS:
        ends = np.cumsum(combined.value_lengths().to_numpy()).tolist()
        flat = combined.flatten().to_numpy().astype(np.int64)
        lengths = combined.value_lengths().to_pylist()
        return ragged([flat[end - length : end] for end, length in zip(ends, lengths, strict=True)])
    if pa.types.is_fixed_size_list(kind):
        labels = combined.flatten().to_numpy().astype(np.int64).reshape(-1, kind.list_size)
    elif pa.types.is_list(kind):
        labels = np.array(combined.to_pylist(), dtype=np.int64)
    else:
        labels = combined.to_numpy(zero_copy_only=False).astype(np.float32 if pa.types.is_floating(kind) else np.int64)
    return labels


def label_column(labels: Labels) -> pa.Array:
    """Convert gold labels [rows, ...], none missing, to a column of the form of `data/prepared`."""
    return pa.array(labels) if labels.ndim == 1 else pa.array(labels.tolist(), pa.list_(pa.int8()))


def _combined(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    # A column without rows stays a chunked array.
    return combined if not isinstance(combined, pa.ChunkedArray) else pa.array([], type=combined.type)


def _texts(column: pa.ChunkedArray) -> Ints:
    """Number the text of each row, from ids of texts whose windows follow each other: [rows]."""
    ids = _combined(column)
    changes = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([np.zeros(min(len(ids), 1), dtype=np.int64), np.cumsum(changes)])


def _concatenate_texts(parts: Sequence[Ints | None]) -> Ints | None:
    """Number the texts of several datasets that share no text."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    offsets = np.cumsum([0, *(int(part.max(initial=-1)) + 1 for part in known)])
    return np.concatenate([part + offset for part, offset in zip(known, offsets[:-1], strict=True)])


def mapped_lists(table: pa.Table, name: str, kind: npt.DTypeLike) -> tuple[ArrayChunks, Ints]:
    """Map a column of lists: the numbers in the chunks of the mapped file, and the length of each list."""
    chunks = table.column(name).chunks
    lengths = [chunk.value_lengths().to_numpy().astype(np.int64) for chunk in chunks]
    flat = ArrayChunks([chunk.flatten().to_numpy().astype(kind, copy=False) for chunk in chunks])
    return flat, np.concatenate([*lengths, np.empty(0, dtype=np.int64)])


def cut_batches(order: Ints, lengths: Ints, batch_tokens: int) -> list[Ints]:
    """Divide ordered rows into batches whose padded size (rows x longest row) stays within the budget.

    A row that is longer than the budget is a batch of its own.
    """
    batches: list[Ints] = []
    start = 0
    longest = 0
    for position, row in enumerate(order):
        longest = max(longest, int(lengths[row]))
        if position > start and (position - start + 1) * longest > batch_tokens:
            batches.append(order[start:position])
            start = position
            longest = int(lengths[row])
    if start < len(order):
        batches.append(order[start:])
    return batches


def sorted_batches(lengths: Ints, batch_tokens: int) -> list[Ints]:
    """Make batches for inference, the longest first, so that a budget that exceeds the memory fails at once."""
    return cut_batches(np.argsort(-lengths, kind="stable").astype(np.int64), lengths, batch_tokens)


def shuffled_batches(lengths: Ints, batch_tokens: int, *, seed: int, epoch: int) -> list[Ints]:
    """Make the batches of a training epoch. They depend only on seed and epoch, so a resumed run gets the same ones."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths)).astype(np.int64)
    mean = max(float(lengths.mean()), 1.0) if len(lengths) else 1.0
    pool = max(int(POOL_BATCHES * batch_tokens / mean), 1)
    batches: list[Ints] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        batches += cut_batches(rows[np.argsort(lengths[rows], kind="stable")], lengths, batch_tokens)
    return [batches[index] for index in random.permutation(len(batches))]
