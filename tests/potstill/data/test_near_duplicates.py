from __future__ import annotations

import itertools
import random
import tracemalloc

import pytest

from potstill.data.near_duplicates import NearDuplicateIndex, jaccard, shingles
from tests.conftest import generate_rows


def test_shingles_ignore_case_and_punctuation() -> None:
    assert shingles("It was, GOOD!") == shingles("it was good")
    assert len(shingles("a b c d e")) == 3
    assert len(shingles("one")) == 1
    assert shingles("!!!") != shingles("???")


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    a, b = "这部电影的故事非常精彩演员表演也很出色值得一看", "这部电影的故事非常精彩演员表演也很出色值得再看"
    assert 0.6 < jaccard(shingles(a), shingles(b)) < 1
    assert NearDuplicateIndex(0.6).matches([[a]]) == [[]]
    index = NearDuplicateIndex(0.6)
    index.add([[a]])
    assert index.matches([[b], ["完全不同的一句话没有任何相同的内容在里面"]]) == [[0], []]


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_finds_what_comparing_all_pairs_finds(threshold: float) -> None:
    generator = random.Random(5)
    texts = [text for text, _ in generate_rows(150, seed=3)]
    changed = [text.split() for text in texts]
    for words in changed:
        for _ in range(generator.randint(0, 3)):
            words[generator.randrange(len(words))] = "other"
    queries = [" ".join(words) for words in changed]
    index = NearDuplicateIndex(threshold)
    index.add([text] for text in texts[:100])
    index.add([text] for text in texts[100:])
    expected = [[] for _ in queries]  # type: ignore[var-annotated]
    for (at, query), (number, text) in itertools.product(enumerate(queries), enumerate(texts)):
        if jaccard(shingles(query), shingles(text)) >= threshold:
            expected[at].append(number)
    assert sum(map(len, expected)) > 20
    assert index.matches([query] for query in queries) == expected


def test_pair_is_near_only_if_both_texts_are() -> None:
    passage = " ".join(text for text, _ in generate_rows(8))
    index = NearDuplicateIndex(0.8)
    index.add([(passage, "who plays the doctor in it"), (passage, "yes")])
    assert index.matches([(passage, "where is the island market"), (passage, "Yes!"), ("yes", passage)]) == [
        [],
        [1],
        [],
    ]


def test_a_million_rows_fit_into_memory() -> None:
    rows = [[text] for text, _ in generate_rows(4000)]
    index = NearDuplicateIndex(0.8)
    index.add(rows[:1])  # imports and permutations are there once
    tracemalloc.start()
    index.add(rows[1:2000])
    kept, _ = tracemalloc.get_traced_memory()
    peaks = []
    for _ in range(3):  # what other threads of the process allocate meanwhile counts too: the least has least of it
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        index.matches(rows[2000:])
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert kept / 1999 < 600  # bytes a row that is added: as sets and hash tables they took 4,000
    assert min(peaks) / 2000 < 200  # and a row that is looked up: 1,300
