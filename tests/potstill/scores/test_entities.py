from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from seqeval.scheme import IOB2

from potstill.scores.entities import EntityCounts, count_entities, library_scores, tags_by_row
from potstill.scores.statistics import compare_scores

NAMES = ["O", "B-a", "I-a", "B-b", "I-b"]


def valid(generator: random.Random, units: int) -> list[str]:
    tags: list[str] = []
    for _ in range(units):
        before = tags[-1] if tags else "O"
        tags.append(generator.choice(["O", "B-a", "B-b"] + ([f"I{before[1:]}"] * 2 if before != "O" else [])))
    return tags


def rows(count: int = 200, wrong: float = 0.2) -> tuple[list[list[str]], list[list[str]]]:
    """Gold tags and predictions of which a share is any tag at all."""
    generator = random.Random(4)
    gold = [valid(generator, generator.randint(0, 15)) for _ in range(count)]
    found = [[generator.choice(NAMES) if generator.random() < wrong else tag for tag in tags] for tags in gold]
    return gold, found


def count(gold: list[list[str]], found: list[list[str]]) -> EntityCounts:
    lengths = np.array([len(tags) for tags in gold], dtype=np.int64)
    flat = (np.array([NAMES.index(tag) for tags in part for tag in tags], dtype=np.int64) for part in (gold, found))
    return count_entities(*flat, lengths, 2)


def test_known_counts() -> None:
    gold = [["B-a", "I-a", "O"], ["O", "B-b", "O"], ["O"]]
    found = [["B-a", "O", "O"], ["O", "B-b", "B-a"], ["O"]]
    counts = count(gold, found)
    assert counts.right.tolist() == [[0, 0], [0, 1], [0, 0]]
    assert counts.predicted.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert counts.gold.tolist() == [[1, 0], [0, 1], [0, 0]]
    values = counts.moments().values
    assert values == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "macro_f1": 1 / 2})
    assert counts.types().tolist() == [0, 1]


def test_the_counts_give_the_library_s_scores() -> None:
    gold, found = rows()
    values, counts = count(gold, found).moments().values, count(gold, found)
    library = library_scores(gold, found)
    assert {name: values[name] for name in library} == pytest.approx(library)
    assert counts.f1 == pytest.approx(library["f1"])
    each = precision_recall_fscore_support(gold, found, average=None, zero_division=0)[2]
    assert counts.types() == pytest.approx(each)
    assert values["macro_f1"] == pytest.approx(each.mean())
    assert 0.1 < library["f1"] < 0.9


def test_rows_and_invalid_tags_are_read_as_the_library_reads_them() -> None:
    """Row by row: an entity at the end of a row and one at the beginning of the next are two."""
    gold, found = rows(300, wrong=0.9)
    counts = count(gold, found)
    for row, (wanted, tags) in enumerate(zip(gold, found, strict=True)):
        a, b = set(get_entities(wanted)), set(get_entities(tags))
        found_here = [int(part[row].sum()) for part in (counts.right, counts.predicted, counts.gold)]
        assert found_here == [len(a & b), len(b), len(a)]
    lengths = np.array([len(tags) for tags in gold])
    flat = np.array([NAMES.index(tag) for tags in gold for tag in tags])
    assert tags_by_row(flat, lengths, NAMES) == gold


def test_strict_and_lenient_reading_agree_on_valid_tags() -> None:
    gold, other = rows(wrong=0)[0], rows(wrong=0)[0][::-1]
    other = [tags[: len(wanted)] + ["O"] * (len(wanted) - len(tags)) for tags, wanted in zip(other, gold, strict=True)]
    strict = f1_score(gold, other, mode="strict", scheme=IOB2, zero_division=0)
    assert library_scores(gold, other)["f1"] == pytest.approx(strict)


def test_no_entities_score_zero() -> None:
    counts = count([["O", "O"]], [["O", "O"]])
    assert counts.f1 == 0
    assert set(counts.moments().values.values()) == {0.0}
    assert count([], []).f1 == 0


def test_the_interval_holds_its_level() -> None:
    """Of many samples from one population, about 95% have intervals that hold its F1."""
    gold, found = rows(3000)
    population = count(gold, found)
    held, random_ = 0, np.random.default_rng(5)
    for seed in range(100):
        chosen = random_.integers(0, len(gold), 80)
        sample = EntityCounts(population.right[chosen], population.predicted[chosen], population.gold[chosen])
        low, high = sample.moments().intervals(replicates=300, confidence=0.95, seed=seed)["f1"]
        held += low <= population.f1 <= high
    assert 87 <= held <= 100


def test_a_better_model_beats_and_an_equal_one_does_not() -> None:
    gold, found = rows()
    perfect, worse = count(gold, gold).moments(), count(gold, found).moments()
    options: dict[str, Any] = {"replicates": 300, "confidence": 0.95, "seed": 3}
    better = compare_scores([perfect], [worse], "f1", **options)
    assert better.outcome == "BEATS"
    assert better.low <= better.difference <= better.high
    assert compare_scores([worse], [worse], "f1", **options).outcome == "NO DIFFERENCE"


def test_units_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 gold tags, 1 predicted ones, 2 units"):
        count_entities(np.zeros(2, int), np.zeros(1, int), np.array([2]), 1)
