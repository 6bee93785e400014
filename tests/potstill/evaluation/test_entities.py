from __future__ import annotations

import random

import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2

from potstill.evaluation.entities import (
    EntityCounts,
    count_entities,
    entity_scores,
    f1_interval,
    paired_f1_bootstrap,
    tags_by_row,
    type_scores,
)

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
    return count_entities(*flat, lengths)


def test_known_counts() -> None:
    gold = [["B-a", "I-a", "O"], ["O", "B-b", "O"], ["O"]]
    found = [["B-a", "O", "O"], ["O", "B-b", "B-a"], ["O"]]
    counts = count(gold, found)
    assert (counts.right.tolist(), counts.predicted.tolist(), counts.gold.tolist()) == ([0, 1, 0], [1, 2, 0], [1, 1, 0])
    scores = entity_scores(gold, found)
    assert scores == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "macro_f1": 1 / 2})
    assert type_scores(gold, found) == {
        "a": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 1},
        "b": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "entities": 1},
    }


def test_the_counts_give_the_library_s_scores() -> None:
    gold, found = rows()
    assert float(count(gold, found).f1()) == pytest.approx(entity_scores(gold, found)["f1"])
    assert 0.1 < entity_scores(gold, found)["f1"] < 0.9


def test_rows_and_invalid_tags_are_read_as_the_library_reads_them() -> None:
    """Row by row: an entity at the end of a row and one at the beginning of the next are two."""
    gold, found = rows(300, wrong=0.9)
    counts = count(gold, found)
    for row, (wanted, tags) in enumerate(zip(gold, found, strict=True)):
        a, b = set(get_entities(wanted)), set(get_entities(tags))
        assert (counts.right[row], counts.predicted[row], counts.gold[row]) == (len(a & b), len(b), len(a))
    lengths = np.array([len(tags) for tags in gold])
    flat = np.array([NAMES.index(tag) for tags in gold for tag in tags])
    assert tags_by_row(flat, lengths, NAMES) == gold


def test_strict_and_lenient_reading_agree_on_valid_tags() -> None:
    gold, other = rows(wrong=0)[0], rows(wrong=0)[0][::-1]
    other = [tags[: len(wanted)] + ["O"] * (len(wanted) - len(tags)) for tags, wanted in zip(other, gold, strict=True)]
    strict = f1_score(gold, other, mode="strict", scheme=IOB2, zero_division=0)
    assert entity_scores(gold, other)["f1"] == pytest.approx(strict)


def test_no_entities_score_zero() -> None:
    assert entity_scores([["O", "O"]], [["O", "O"]])["f1"] == 0
    assert type_scores([["O"]], [["O"]]) == {}
    assert f1_interval(count([["O"]], [["O"]]), replicates=100, confidence=0.95, seed=1) == (0, 0)


def test_the_interval_holds_its_level() -> None:
    """Of many samples from one population, about 95% have intervals that hold its F1."""
    gold, found = rows(3000)
    population = count(gold, found)
    true, held, random_ = float(population.f1()), 0, np.random.default_rng(5)
    for seed in range(100):
        chosen = random_.integers(0, len(gold), 80)
        sample = type(population)(population.right[chosen], population.predicted[chosen], population.gold[chosen])
        low, high = f1_interval(sample, replicates=400, confidence=0.95, seed=seed)
        held += low <= true <= high
    assert 87 <= held <= 100


def test_a_better_model_beats_and_an_equal_one_does_not() -> None:
    gold, found = rows()
    perfect, worse = count(gold, gold), count(gold, found)
    settings = {"replicates": 500, "confidence": 0.95, "seed": 3}
    better = paired_f1_bootstrap(perfect, worse, **settings)  # type: ignore[arg-type]
    assert better.outcome == "BEATS"
    assert better.low <= better.difference <= better.high
    assert better.difference == pytest.approx(1 - float(worse.f1()))
    assert paired_f1_bootstrap(worse, perfect, **settings).outcome == "LOSES"  # type: ignore[arg-type]
    same = paired_f1_bootstrap(worse, worse, **settings)  # type: ignore[arg-type]
    assert (same.outcome, same.difference, same.low, same.high) == ("NO DIFFERENCE", 0, 0, 0)


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="2 gold tags, 1 predicted ones, 2 units"):
        count_entities(np.zeros(2, int), np.zeros(1, int), np.array([2]))
    with pytest.raises(ValueError, match="same rows"):
        paired_f1_bootstrap(
            count([["B-a"]], [["O"]]), count([["O"]], [["O"]]),
            replicates=100, confidence=0.95, seed=1,
        )  # fmt: skip
    with pytest.raises(ValueError, match="no rows"):
        f1_interval(count([], []), replicates=100, confidence=0.95, seed=1)
