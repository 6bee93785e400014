from __future__ import annotations

import re
import string
from collections import Counter

import pytest

from potstill.scores.answers import (
    exact_match,
    moments,
    normalise,
    word_f1,
    words_of,
)


def squad_normalise(text: str) -> str:
    """As the published evaluation of SQuAD 1.1 defines it, step by step."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(answer: str, gold: str) -> float:
    ours, theirs = squad_normalise(answer).split(), squad_normalise(gold).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall)


PAIRS = [
    ("The Eiffel Tower", "Eiffel tower!"),
    ("in Paris, France", "Paris"),
    ("an apple a day", "the apple days"),
    ("Zoë's 1,998 theories", "zoë 1998 theories"),
    ("left", "right"),
]


@pytest.mark.parametrize(("answer", "gold"), PAIRS)
def test_english_is_scored_as_squad_scores_it(answer: str, gold: str) -> None:
    assert normalise(answer) == squad_normalise(answer)
    assert words_of(answer) == squad_normalise(answer).split()
    assert exact_match(answer, [gold]) == float(squad_normalise(answer) == squad_normalise(gold))
    assert word_f1(answer, [gold]) == pytest.approx(squad_f1(answer, gold))


def test_the_best_gold_answer_counts() -> None:
    assert word_f1("in Paris", ["London", "Paris"]) == pytest.approx(2 / 3)
    assert exact_match("Paris", ["London", "Paris"]) == 1


def test_chinese_is_compared_by_character() -> None:
    assert words_of("《北京》，1998年") == ["北", "京", "1998", "年"]
    assert word_f1("北京市", ["北京"]) == pytest.approx(0.8)
    assert exact_match("“北京”。".strip("“”"), ["北京"]) == 0  # curly quotes inside stay, as in SQuAD
    assert exact_match("北京。", ["北京"]) == 1


def test_no_answer() -> None:
    assert exact_match("", []) == word_f1("", []) == 1
    assert exact_match("Paris", []) == word_f1("Paris", []) == 0
    assert exact_match("", ["Paris"]) == word_f1("", ["Paris"]) == 0
    assert word_f1("the", ["Paris"]) == 0  # nothing is left of it


def test_moments_are_means_over_the_rows() -> None:
    found = moments(["in Paris", "London", ""], [["Paris"], ["Rome", "London"], []])
    assert found.values == pytest.approx({"f1": (2 / 3 + 2) / 3, "exact_match": 2 / 3})
    low, high = found.intervals(replicates=200, confidence=0.95, seed=1)["exact_match"]
    assert 0 <= low < 2 / 3 < high <= 1
