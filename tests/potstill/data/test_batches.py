from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.data.tokens.batches import TokenDataset, shuffled_batches, sorted_batches
from potstill.errors import FormatError

ROWS = [[2, 7, 3], [2, 7, 8, 9, 3], [2, 3], [2, 7, 3]]
LENGTHS = np.array([3, 5, 2, 3])


def write(path: Path, rows: list[list[int]], types: list[list[int]] | None = None) -> Path:
    columns = {
        "id": pa.array([str(index) for index in range(len(rows))]),
        "input_ids": pa.array(rows, pa.list_(pa.int32())),
        "label": pa.array([index % 2 for index in range(len(rows))], pa.int64()),
    }
    if types is not None:
        columns["token_type_ids"] = pa.array(types, pa.list_(pa.int8()))
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)  # several chunks, as the tokenize stage writes them
    return path


def test_a_batch_is_padded_to_its_longest_row(tmp_path: Path) -> None:
    dataset = TokenDataset.open(write(tmp_path / "a.arrow", ROWS), pad_token_id=9)
    batch = dataset.batch(np.array([1, 2]))
    assert batch.input_ids.tolist() == [[2, 7, 8, 9, 3], [2, 3, 9, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.token_type_ids is None
    assert batch.labels.tolist() == [1, 0]
    assert batch.tokens == 7


def test_segments_select_and_concatenate(tmp_path: Path) -> None:
    types = [[0, 0, 1], [0, 0, 1, 1, 1], [0, 1], [0, 1, 1]]
    dataset = TokenDataset.open(write(tmp_path / "a.arrow", ROWS, types), pad_token_id=0)
    both = TokenDataset.concatenate([dataset.select(np.array([3, 1])), dataset])
    batch = both.batch(np.array([0, 1, 3]))
    assert batch.input_ids.tolist() == [[2, 7, 3, 0, 0], [2, 7, 8, 9, 3], [2, 7, 8, 9, 3]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]
    # Same ids, other segments: another identity, so that a pair never takes another pair's signal.
    keys = dataset.keys()
    assert keys[0] != keys[3]


def test_tokens_are_counted_and_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.data.tokens.batches.ROWS_AT_ONCE", 3)
    dataset = TokenDataset.open(write(tmp_path / "a.arrow", ROWS), pad_token_id=0)
    assert dataset.token_counts().tolist() == [0, 0, 4, 4, 0, 0, 0, 3, 1, 1]
    assert dataset.share_beyond(np.array([2, 3, 7])) == (2 / 13, 1 / 4)
    assert dataset.share_beyond(np.array([2, 3, 8, 9])) == (3 / 13, 3 / 4)
    part = TokenDataset.concatenate([dataset.select(np.array([2, 1])), dataset.select(np.array([2]))])
    assert part.token_counts().tolist() == [0, 0, 3, 3, 0, 0, 0, 1, 1, 1]
    assert part.share_beyond(np.array([2, 3])) == (3 / 9, 1 / 3)
    empty = dataset.select(np.array([], dtype=np.int64))
    assert empty.token_counts().tolist() == []
    assert empty.share_beyond(np.array([2])) == (0.0, 0.0)


def test_keys_name_exact_token_ids(tmp_path: Path) -> None:
    keys = TokenDataset.open(write(tmp_path / "a.arrow", ROWS), pad_token_id=0).keys()
    assert keys[0] == keys[3]
    assert len({key.tobytes() for key in keys}) == 3


def test_keys_are_the_same_in_one_file_and_over_chunks_of_several(tmp_path: Path) -> None:
    whole = TokenDataset(np.concatenate([np.array(row, np.int32) for row in ROWS]), LENGTHS, None, LENGTHS, 0)
    mapped = TokenDataset.open(write(tmp_path / "a.arrow", ROWS), pad_token_id=0)
    empty = TokenDataset.open(write(tmp_path / "b.arrow", []), pad_token_id=0)
    both = TokenDataset.concatenate([empty, mapped, empty, mapped.select(np.array([2, 0]))])
    assert both.keys().tolist() == whole.keys()[[0, 1, 2, 3, 2, 0]].tolist()
    everything = both.batch(np.arange(6))
    assert [row[:length].tolist() for row, length in zip(everything.input_ids, both.lengths, strict=True)] == [
        *ROWS, ROWS[2], ROWS[0]
    ]  # fmt: skip
    with_empty = TokenDataset(np.array([2, 3], np.int32), np.array([2, 0]), None, np.array([0, 0]), 0)
    assert len(set(with_empty.keys().tolist())) == 2


def test_token_ids_are_not_copied_from_the_file(tmp_path: Path) -> None:
    dataset = TokenDataset.open(write(tmp_path / "a.arrow", ROWS), pad_token_id=0)
    chosen = TokenDataset.concatenate([dataset, dataset.select(np.array([3, 1]))])
    for part, mapped in zip(chosen._flat.parts, dataset._flat.parts * 2, strict=True):
        assert not part.flags.writeable  # a view of the map
        assert np.shares_memory(part, mapped)


def test_an_empty_split_opens(tmp_path: Path) -> None:
    dataset = TokenDataset.open(write(tmp_path / "a.arrow", []), pad_token_id=0)
    assert len(dataset) == len(dataset.keys()) == 0
    assert dataset.select(np.array([], dtype=np.int64)).batch(np.array([], dtype=np.int64)).input_ids.shape == (0, 1)
    assert sorted_batches(dataset.lengths, 64) == []
    assert shuffled_batches(dataset.lengths, 64, seed=1, epoch=0) == []


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"not arrow")
    with pytest.raises(FormatError, match="run the tokenize stage again"):
        TokenDataset.open(tmp_path / "a.arrow", pad_token_id=0)


lengths_and_budget = st.tuples(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(16, 256))


@given(lengths_and_budget, st.integers(0, 5))
def test_batches_hold_every_row_once_within_the_budget(case: tuple[list[int], int], epoch: int) -> None:
    lengths, budget = np.array(case[0]), case[1]
    for batches in (sorted_batches(lengths, budget), shuffled_batches(lengths, budget, seed=3, epoch=epoch)):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert all(len(rows) == 1 or len(rows) * lengths[rows].max() <= budget for rows in batches)


def test_epochs_differ_and_repeat_by_seed() -> None:
    lengths = np.random.default_rng(0).integers(5, 40, 500)
    first = shuffled_batches(lengths, 256, seed=1, epoch=0)
    again = shuffled_batches(lengths, 256, seed=1, epoch=0)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    other = shuffled_batches(lengths, 256, seed=1, epoch=1)
    assert [rows.tolist() for rows in first] != [rows.tolist() for rows in other]


def test_bucketing_saves_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 4000)
    batches = shuffled_batches(lengths, 1024, seed=1, epoch=0)
    padded = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert lengths.sum() / padded > 0.9
