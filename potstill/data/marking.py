"""Token ids of rows whose labels are places in their text: a label for each token, or a window of a context a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from potstill.data.alignment import UNANSWERED, UNSEEN, sight, speakers, token_labels
from potstill.data.batches import TOKEN_LABELS, TOKEN_SPAN
from potstill.data.tags import Unit, units_of
from potstill.data.windows import NONE, Window, Windower, answer_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_ROWS_AT_ONCE = 1000
# Of `data/prepared`: [start, end, class] of each unit; [start, end] of each answer.
UNIT_LABELS = pa.list_(pa.list_(pa.int32(), 3))
ANSWERS = pa.list_(pa.list_(pa.int32(), 2))


@dataclass
class TagCounts:
    """What was written of a split of texts with entities; `unseen` units have no token, mostly by truncation."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    units: int = 0
    unseen: int = 0


@dataclass
class WindowCounts:
    """What was written of a split of questions; `lost` answers are whole in no window: longer than windows share."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    questions: int = 0
    answers: int = 0
    lost: int = 0


# --- entities ---------------------------------------------------------------------------------------------------------


def write_tagged(table: pa.Table, tokenizer: Tokenizer, path: Path) -> TagCounts:
    """Tokenize a prepared split of texts with entities.

    The file's columns are `id`, `input_ids`, `label` (of each token: a class; `UNANSWERED` where the row has no gold;
    `IGNORED` where no answer is asked of the token) and `units` (of each unit: OWN, SHARED or CUT).

    Args:
        table: columns `id`, `text`, `label` of type UNIT_LABELS (null: none).
        tokenizer: one that cuts and does not pad.
        path: the Arrow stream to write.
    """
    counts = TagCounts()
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("input_ids", pa.list_(pa.int32())),
            ("label", TOKEN_LABELS),
            ("units", pa.list_(pa.int8())),
        ]
    )
    with path.open("wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for start in range(0, table.num_rows, _ROWS_AT_ONCE):
            rows = table.slice(start, _ROWS_AT_ONCE)
            columns = _tagged(rows, tokenizer, counts)
            stream.write_batch(pa.record_batch([rows.column("id").combine_chunks(), *columns], schema=schema))
    return counts


def _tagged(rows: pa.Table, tokenizer: Tokenizer, counts: TagCounts) -> list[pa.Array]:
    texts, marks = rows.column("text").to_pylist(), rows.column("label").to_pylist()
    encodings = tokenizer.encode_batch(texts)
    ids, labels, seen = [], [], []
    for encoding, text, mark in zip(encodings, texts, marks, strict=True):
        units, tags = row_units(text, mark)
        tokens = speakers(encoding.offsets, encoding.special_tokens_mask, units)
        ids.append(encoding.ids)
        labels.append(token_labels(tokens, tags, len(encoding.ids)))
        seen.append(sight(tokens))
        counts.rows += 1
        counts.tokens += len(encoding.ids)
        counts.truncated += bool(encoding.overflowing)
        counts.units += len(units)
        counts.unseen += int((tokens == UNSEEN).sum())
    return [pa.array(ids, pa.list_(pa.int32())), pa.array(labels, TOKEN_LABELS), pa.array(seen, pa.list_(pa.int8()))]


def row_units(text: str, mark: Sequence[Sequence[int]] | None) -> tuple[list[Unit], list[int]]:
    """Units of a row and their classes; of a row without gold the text's own units, `UNANSWERED`."""
    if mark is None:
        units = units_of(text)
        return units, [UNANSWERED] * len(units)
    return [Unit(start, end) for start, end, _ in mark], [tag for _, _, tag in mark]


# --- answers ----------------------------------------------------------------------------------------------------------


def write_windows(table: pa.Table, windower: Windower, path: Path, *, types: bool) -> WindowCounts:
    """Cut a prepared split of questions into windows.

    The file's columns are `id` (of the question), `input_ids`, `token_type_ids`, and `label`: the first and last token
    of the first gold answer, both 0 in a window without it, both -1 where there is no gold.

    Args:
        table: columns `id`, `text` (the question), `text_pair` (its context), `label` of type ANSWERS (null: none).
        windower: cuts.
        path: the Arrow stream to write.
        types: whether the model has segments.
    """
    counts = WindowCounts()
    fields = [("id", pa.string()), ("input_ids", pa.list_(pa.int32()))]
    fields += [("token_type_ids", pa.list_(pa.int8()))] if types else []
    schema = pa.schema([*fields, ("label", TOKEN_SPAN)])
    with path.open("wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for start in range(0, table.num_rows, _ROWS_AT_ONCE):
            found = list(_windows(table.slice(start, _ROWS_AT_ONCE), windower, counts))
            columns = [
                pa.array([row for row, _, _ in found], pa.string()),
                pa.array([window.ids for _, window, _ in found], pa.list_(pa.int32())),
            ]
            columns += [pa.array([window.type_ids for _, window, _ in found], pa.list_(pa.int8()))] if types else []
            columns.append(pa.array([{"start": a, "end": b} for _, _, (a, b) in found], TOKEN_SPAN))
            stream.write_batch(pa.record_batch(columns, schema=schema))
    return counts


def _windows(rows: pa.Table, windower: Windower, counts: WindowCounts) -> Iterator[tuple[str, Window, tuple[int, int]]]:
    ids, marks = rows.column("id").to_pylist(), rows.column("label").to_pylist()
    cut = windower(rows.column("text").to_pylist(), rows.column("text_pair").to_pylist())
    for row, mark, windows in zip(ids, marks, cut, strict=True):
        spans = [_span(window, mark) for window in windows]
        counts.questions += 1
        counts.rows += len(windows)
        counts.tokens += sum(len(window.ids) for window in windows)
        counts.truncated += len(windows) > 1
        counts.answers += bool(mark)
        counts.lost += bool(mark) and all(span == (NONE, NONE) for span in spans)
        yield from ((row, window, span) for window, span in zip(windows, spans, strict=True))


def _span(window: Window, mark: Sequence[Sequence[int]] | None) -> tuple[int, int]:
    if mark is None:
        return UNANSWERED, UNANSWERED
    return answer_tokens(window, *mark[0]) if mark else (NONE, NONE)
