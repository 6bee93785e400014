"""Token ids of rows whose labels are places in their text: windows of texts, a label for each token, or of contexts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from potstill.data.tokens.batches import TOKEN_LABELS, TOKEN_SPAN
from potstill.data.tokens.offsets import UNANSWERED, UNSEEN, sight, token_labels
from potstill.data.tokens.windows import NONE, NOWHERE, Ints, TextWindower, Window, Windower, answer_tokens
from potstill.labels.tags import Unit, units_of

_ROWS_AT_ONCE = 1000
# Of `data/prepared`: [start, end, class] of each unit; [start, end] of each answer.
UNIT_LABELS = pa.list_(pa.list_(pa.int32(), 3))
ANSWERS = pa.list_(pa.list_(pa.int32(), 2))


@dataclass
class TagCounts:
    """What was written of a split of texts with entities: rows are windows, `truncated` texts have several.

    `unseen` units have no token.
    """

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    texts: int = 0
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


def write_tagged(table: pa.Table, windower: TextWindower, path: Path) -> TagCounts:
    """Tokenize a prepared split of texts with entities.

    The file's columns are `id` (of the text), `input_ids`, `label` (of each token: a class; `UNANSWERED` where the row
    has no gold; `IGNORED` where no answer is asked of the token) and `units` (of each unit that is asked of the window:
    OWN, SHARED or CUT).

    Args:
        table: columns `id`, `text`, `label` of type UNIT_LABELS (null: none).
        windower: cuts.
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
            stream.write_batch(_tagged(table.slice(start, _ROWS_AT_ONCE), windower, counts, schema))
    return counts


def _tagged(rows: pa.Table, windower: TextWindower, counts: TagCounts, schema: pa.Schema) -> pa.RecordBatch:
    texts, marks = rows.column("text").to_pylist(), rows.column("label").to_pylist()
    units, tags = zip(*(row_units(text, mark) for text, mark in zip(texts, marks, strict=True)), strict=True)
    owners, ids, labels, seen = [], [], [], []
    for row, own, windows in zip(rows.column("id").to_pylist(), tags, windower(texts, units), strict=True):
        for window in windows:
            owners.append(row)
            ids.append(window.ids)
            labels.append(token_labels(window.tokens, own[window.asked], len(window.ids)))
            seen.append(sight(window.tokens))
            counts.unseen += int((window.tokens == UNSEEN).sum())
            counts.tokens += len(window.ids)
        counts.texts += 1
        counts.rows += len(windows)
        counts.truncated += len(windows) > 1
        counts.units += len(own)
    columns = [
        pa.array(owners, pa.string()), pa.array(ids, pa.list_(pa.int32())), pa.array(labels, TOKEN_LABELS),
        pa.array(seen, pa.list_(pa.int8())),
    ]  # fmt: skip
    return pa.record_batch(columns, schema=schema)


def row_units(text: str, mark: Sequence[Sequence[int]] | None) -> tuple[list[Unit], list[int]]:
    """Units of a row and their classes; of a row without gold the text's own units, `UNANSWERED`."""
    if mark is None:
        units = units_of(text)
        return units, [UNANSWERED] * len(units)
    return [Unit(start, end) for start, end, _ in mark], [tag for _, _, tag in mark]


# --- answers ----------------------------------------------------------------------------------------------------------


def write_windows(table: pa.Table, windower: Windower, path: Path, *, types: bool) -> WindowCounts:
    """Cut a prepared split of questions into windows.

    The file's columns are `id` (of the question), `input_ids`, `token_type_ids`, `starts` and `ends` (of each token:
    its characters of the context without white space around them, `windows.NOWHERE` where it is not of the context),
    and `label`: the first and last token of the first gold answer, both 0 in a window without it, both -1 where there
    is no gold.

    Args:
        table: columns `id`, `text` (the question), `text_pair` (its context), `label` of type ANSWERS (null: none).
        windower: cuts.
        path: the Arrow stream to write.
        types: whether the model has segments.
    """
    counts = WindowCounts()
    fields = [("id", pa.string()), ("input_ids", pa.list_(pa.int32()))]
    fields += [("token_type_ids", pa.list_(pa.int8()))] if types else []
    fields += [("starts", pa.list_(pa.int32())), ("ends", pa.list_(pa.int32())), ("label", TOKEN_SPAN)]
    schema = pa.schema(fields)
    with path.open("wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for start in range(0, table.num_rows, _ROWS_AT_ONCE):
            found = list(_windows(table.slice(start, _ROWS_AT_ONCE), windower, counts))
            columns = [
                pa.array([row for row, _, _, _ in found], pa.string()),
                pa.array([window.ids for _, window, _, _ in found], pa.list_(pa.int32())),
            ]
            columns += [pa.array([window.type_ids for _, window, _, _ in found], pa.list_(pa.int8()))] if types else []
            columns += [
                pa.array([list(offsets[:, side]) for _, _, offsets, _ in found], pa.list_(pa.int32()))
                for side in (0, 1)
            ]
            columns.append(pa.array([{"start": a, "end": b} for _, _, _, (a, b) in found], TOKEN_SPAN))
            stream.write_batch(pa.record_batch(columns, schema=schema))
    return counts


def _windows(
    rows: pa.Table, windower: Windower, counts: WindowCounts
) -> Iterator[tuple[str, Window, Ints, tuple[int, int]]]:
    """Of each window its question, itself, the characters of its tokens, and its answer."""
    ids, marks = rows.column("id").to_pylist(), rows.column("label").to_pylist()
    contexts = rows.column("text_pair").to_pylist()
    cut = windower(rows.column("text").to_pylist(), contexts)
    for row, mark, context, windows in zip(ids, marks, contexts, cut, strict=True):
        spans = [_span(window, mark) for window in windows]
        counts.questions += 1
        counts.rows += len(windows)
        counts.tokens += sum(len(window.ids) for window in windows)
        counts.truncated += len(windows) > 1
        counts.answers += bool(mark)
        counts.lost += bool(mark) and all(span == (NONE, NONE) for span in spans)
        edges = _edges(context)
        for window, span in zip(windows, spans, strict=True):
            yield row, window, _tight(window.offsets, edges), span


def _edges(text: str) -> Ints:
    """[2, characters + 1] for each place the first character from it on, and the end of the last before it, that is
    more than white space.
    """
    black = np.array([not character.isspace() for character in text], dtype=np.bool_)
    places, length = np.arange(len(text)), len(text)
    following = np.minimum.accumulate(np.where(black, places, length)[::-1])[::-1]
    before = np.maximum.accumulate(np.where(black, places + 1, 0))
    return np.stack([np.append(following, length), np.insert(before, 0, 0)])


def _tight(offsets: Ints, edges: Ints) -> Ints:
    """[tokens, 2] characters without the white space that some tokenizers count to a token; without any, no width."""
    starts, ends = offsets.T
    begin = np.minimum(edges[0][starts], ends)
    found = np.stack([begin, np.maximum(edges[1][ends], begin)], axis=1)
    found[starts == NOWHERE] = NOWHERE
    return found


def _span(window: Window, mark: Sequence[Sequence[int]] | None) -> tuple[int, int]:
    if mark is None:
        return UNANSWERED, UNANSWERED
    return answer_tokens(window, *mark[0]) if mark else (NONE, NONE)
