from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from potstill.config.prepare_params import Split
from potstill.data.formats.tabular import Table
from potstill.data.splits.split_names import AUTO, given_splits
from potstill.data.splits.splitting import draw_splits
from potstill.errors import FormatError


def test_added_rows_move_no_old_row() -> None:
    keys = [f"text {number}" for number in range(3000)]
    before = dict(zip(keys[::2], draw_splits(keys[::2], [AUTO] * 1500, Split()), strict=True))
    after = dict(zip(keys, draw_splits(keys, [AUTO] * 3000, Split()), strict=True))
    assert all(after[key] == split for key, split in before.items())
    counts = Counter(after.values())
    assert 240 < counts["dev"] < 360
    assert 530 < counts["test"] < 670


def test_another_seed_draws_another_split() -> None:
    keys = [f"text {number}" for number in range(200)]
    assert draw_splits(keys, [AUTO] * 200, Split(seed=1)) != draw_splits(keys, [AUTO] * 200, Split(seed=2))


def test_given_splits_stay_and_only_missing_ones_are_drawn() -> None:
    keys = [f"text {number}" for number in range(600)]
    given = ["train"] * 400 + ["test"] * 100 + ["transfer"] * 100
    drawn = draw_splits(keys, given, Split())
    assert drawn[400:] == given[400:]
    assert set(drawn[:400]) == {"train", "dev"}
    everything = ["train", "dev", "test"] * 200
    assert draw_splits(keys, everything, Split()) == everything


def test_split_column_is_case_insensitive() -> None:
    table = Table(
        "a.csv", {"part": ["Train", "VALIDATION", "val", "dev", "test", "unlabelled", "transfer"]}, range(2, 9)
    )
    assert given_splits(table, AUTO, "part") == ["train", "dev", "dev", "dev", "test", "transfer", "transfer"]
    with pytest.raises(FormatError, match="line 2: 'holdout' in the split column 'part'"):
        given_splits(Table("a.csv", {"part": ["holdout"]}, [2]), AUTO, "part")


def test_a_column_of_one_split_counts_unless_the_file_has_another_by_name() -> None:
    table = Table("a.csv", {"text": ["a", "b"], "Split": ["test", "Test "]}, [2, 3])
    assert given_splits(table, AUTO, None) == ["test", "test"]
    assert given_splits(replace(table, split="train"), AUTO, None) == ["train", "train"]
    assert given_splits(replace(table, columns={"set": ["a", "a"]}), AUTO, None) == [AUTO, AUTO]


def test_a_files_own_split_holds_unless_params_say_otherwise() -> None:
    table = Table("saved", {"text": ["a"]}, [1], split="validation")
    assert given_splits(table, AUTO, None) == ["dev"]
    assert given_splits(table, "test", None) == ["test"]
