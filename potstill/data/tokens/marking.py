"""Writes token ids of rows whose labels are positions in the text: windows of texts with entities, and of contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from potstill.data.tokens.batches import TOKEN_LABELS, TOKEN_SPAN
from potstill.labels.offsets import UNANSWERED, UNSEEN, token_labels, unit_states
from potstill.labels.tags import Unit, units_of
from potstill.labels.windows import NONE, NOWHERE, Ints, TextWindower, Window, Windower, answer_tokens

_ROWS_AT_ONCE = 1000
# Label types of `data/prepared`: [start, end, class] of each unit, and [start, end] of each answer.
UNIT_LABELS = pa.list_(pa.list_(pa.int32(), 3))
ANSWERS = pa.list_(pa.list_(pa.int32(), 2))


@dataclass
class SplitCounts:
    """The counts of a written split."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0


@dataclass
class TagCounts(SplitCounts):
    """The counts of a written split of texts with entities.

    Rows are windows. A `truncated` text has several windows, and an `unseen` unit has no token.
    """

    texts: int = 0
    units: int = 0
    unseen: int = 0


@dataclass
class WindowCounts(SplitCounts):
    """The counts of a written split of questions. A `lost` answer is longer than the stride, and whole in no window."""

    questions: int = 0
    answers: int = 0
    lost: int = 0


def token_schema(label: pa.DataType, further: Sequence[tuple[str, pa.DataType]] = (), *, types: bool) -> pa.Schema:
    """Build the schema of a split's `.arrow` file."""
    fields = [("id", pa.string()), ("input_ids", pa.list_(pa.int32()))]
    fields += [("token_type_ids", pa.list_(pa.int8()))] if types else []
    return pa.schema([*fields, *further, ("label", label)])


def write_stream(table: pa.Table, path: Path, schema: pa.Schema, convert: Callable[[pa.Table], pa.RecordBatch]) -> None:
    """Write an Arrow stream, converting a part of a table at a time."""
    with path.open("wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for start in range(0, table.num_rows, _ROWS_AT_ONCE):
            stream.write_batch(convert(table.slice(start, _ROWS_AT_ONCE)))


# --- entities ---------------------------------------------------------------------------------------------------------


def write_tagged(table: pa.Table, windower: TextWindower, path: Path) -> TagCounts:
    """Tokenize a prepared split of texts with entities.

    The file's columns are `id` (of the text), `input_ids`, `label` and `units`. The label of a token is a class, or
    `UNANSWERED` in a row without gold labels, or `IGNORED` for a token that represents no unit. `units` has the states
    of the units for which the window answers: OWN, SHARED or CUT.

    Args:
        table: columns `id`, `text`, `label` of type UNIT_LABELS (null: none).
        windower: divides the texts.
        path: the Arrow stream to write.
    """
    counts = TagCounts()
    schema = token_schema(TOKEN_LABELS, types=False).append(pa.field("units", pa.list_(pa.int8())))
    write_stream(table, path, schema, lambda rows: _tagged_batch(rows, windower, counts, schema))
    return counts


def _tagged_batch(rows: pa.Table, windower: TextWindower, counts: TagCounts, schema: pa.Schema) -> pa.RecordBatch:
    texts = rows.column("text").to_pylist()
    marks = rows.column("label").to_pylist()
    units, tags = zip(*(row_units(text, mark) for text, mark in zip(texts, marks, strict=True)), strict=True)
    records = []
    for text_id, classes, windows in zip(rows.column("id").to_pylist(), tags, windower(texts, units), strict=True):
        for window in windows:
            labels = token_labels(window.tokens, classes[window.unit_slice], len(window.ids))
            records.append((text_id, window.ids, labels, unit_states(window.tokens)))
            counts.unseen += int((window.tokens == UNSEEN).sum())
            counts.tokens += len(window.ids)
        counts.texts += 1
        counts.rows += len(windows)
        counts.truncated += len(windows) > 1
        counts.units += len(classes)
    columns = zip(*records, strict=True)
    return pa.record_batch(
        [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema
    )


def row_units(text: str, mark: Sequence[Sequence[int]] | None) -> tuple[list[Unit], list[int]]:
    """List the units of a row and their classes. A row without gold labels has the text's units as `UNANSWERED`."""
    if mark is None:
        units = units_of(text)
        return units, [UNANSWERED] * len(units)
    units = [Unit(start, end) for start, end, _ in mark]
    classes = [tag for _, _, tag in mark]
    return units, classes


# --- answers ----------------------------------------------------------------------------------------------------------


def write_windows(table: pa.Table, windower: Windower, path: Path, *, types: bool) -> WindowCounts:
    """Divide a prepared split of questions into windows.

    The file's columns are `id` (of the question), `input_ids`, `token_type_ids`, `starts`, `ends` and `label`. `starts`
    and `ends` are the characters of each token in the context, without white space around them; `windows.NOWHERE` for
    a token outside of the context. `label` is the first and last token of the first gold answer: both 0 in a window
    without the answer, both -1 for a question without gold answers.

    Args:
        table: columns `id`, `text` (the question), `text_pair` (its context), `label` of type ANSWERS (null: none).
        windower: divides the contexts.
        path: the Arrow stream to write.
        types: whether the model has segments.
    """
    counts = WindowCounts()
    edges = [("starts", pa.list_(pa.int32())), ("ends", pa.list_(pa.int32()))]
    schema = token_schema(TOKEN_SPAN, edges, types=types)
    write_stream(
        table, path, schema, lambda rows: pa.RecordBatch.from_pylist([*_window_records(rows, windower, counts)], schema)
    )
    return counts


def _window_records(rows: pa.Table, windower: Windower, counts: WindowCounts) -> Iterator[dict[str, Any]]:
    """Yield the columns of each window, and count."""
    ids = rows.column("id").to_pylist()
    marks = rows.column("label").to_pylist()
    contexts = rows.column("text_pair").to_pylist()
    windows_of_rows = windower(rows.column("text").to_pylist(), contexts)
    for question_id, mark, context, windows in zip(ids, marks, contexts, windows_of_rows, strict=True):
        spans = [_answer_span(window, mark) for window in windows]
        counts.questions += 1
        counts.rows += len(windows)
        counts.tokens += sum(len(window.ids) for window in windows)
        counts.truncated += len(windows) > 1
        counts.answers += bool(mark)
        counts.lost += bool(mark) and all(span == (NONE, NONE) for span in spans)
        edges = _edges(context)
        for window, span in zip(windows, spans, strict=True):
            offsets = _strip_offsets(window.offsets, edges)
            yield {
                "id": question_id,
                "input_ids": window.ids,
                "token_type_ids": window.type_ids,
                "starts": offsets[:, 0].tolist(),
                "ends": offsets[:, 1].tolist(),
                "label": {"start": span[0], "end": span[1]},
            }


def _edges(text: str) -> Ints:
    """Find for each position the next start and the previous end of something other than white space.

    Returns:
        [2, characters + 1]: the first such character from the position on, and the end of the last one before it.
    """
    visible = np.array([not character.isspace() for character in text], dtype=np.bool_)
    positions = np.arange(len(text))
    next_starts = np.minimum.accumulate(np.where(visible, positions, len(text))[::-1])[::-1]
    previous_ends = np.maximum.accumulate(np.where(visible, positions + 1, 0))
    return np.stack([np.append(next_starts, len(text)), np.insert(previous_ends, 0, 0)])


def _strip_offsets(offsets: Ints, edges: Ints) -> Ints:
    """Strip the white space that some tokenizers count as part of a token: [tokens, 2]. A blank token has no width."""
    starts, ends = offsets.T
    begin = np.minimum(edges[0][starts], ends)
    stripped = np.stack([begin, np.maximum(edges[1][ends], begin)], axis=1)
    stripped[starts == NOWHERE] = NOWHERE
    return stripped


def _answer_span(window: Window, mark: Sequence[Sequence[int]] | None) -> tuple[int, int]:
    if mark is None:
        return UNANSWERED, UNANSWERED
    return answer_tokens(window, *mark[0]) if mark else (NONE, NONE)
