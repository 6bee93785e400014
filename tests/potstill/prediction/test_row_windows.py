from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from potstill.prediction import row_windows
from potstill.prediction.row_batches import Batch, Rejected
from potstill.prediction.row_windows import join_batches


def batch(texts: Sequence[str], rejected: int = 0, position: float = 0.0) -> Batch:
    return Batch(pa.table({"t": pa.array(texts, pa.string())}), list(texts), [Rejected(1, 1, "x")] * rejected, position)


def sizes(batches: Sequence[Batch], window_rows: int) -> list[tuple[int, int]]:
    return [(len(window.texts), len(window.rejected)) for window in join_batches(batches, window_rows)]


def test_batches_are_joined_up_to_the_rows_of_a_window() -> None:
    windows = list(join_batches([batch(["a", "b"], position=2.0), batch(["c"], 1, 3.0), batch(["d"], position=4.0)], 4))
    assert [window.texts for window in windows] == [["a", "b", "c"], ["d"]]
    assert [window.rows.column("t").to_pylist() for window in windows] == [["a", "b", "c"], ["d"]]
    assert [window.position for window in windows] == [3.0, 4.0]


def test_a_batch_that_is_larger_than_a_window_is_cut() -> None:
    assert sizes([batch(list("abcdefg"), 1)], 3) == [(2, 1), (3, 0), (2, 0)]
    assert [window.texts for window in join_batches([batch(list("abcd"))], 3)] == [["a", "b", "c"], ["d"]]


def test_long_texts_end_a_window_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_windows, "WINDOW_CHARACTERS", 10)
    texts = ["xxxx", "xxxx", "xxxx", "x" * 40, "x", "x"]
    assert [window.texts for window in join_batches([batch(texts)], 100)] == [
        texts[:2],
        texts[2:3],
        texts[3:4],
        texts[4:],
    ]


def test_rows_that_are_put_aside_are_windows_too() -> None:
    assert sizes([batch([], 5), batch([])], 4) == [(0, 5)]
    assert sizes([batch([])], 4) == []
