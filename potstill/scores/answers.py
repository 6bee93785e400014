"""Exact match and F1 of answers, as SQuAD scores them (Rajpurkar et al. 2016), also for scripts without spaces."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from potstill.scores.statistics import Moments

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# ASCII punctuation, as in SQuAD, and Chinese and Japanese punctuation.
_PUNCTUATION = re.compile(
    f"[{re.escape(string.punctuation)}\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)
# In a script without spaces each character is a word.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")


def normalise(text: str) -> str:
    """Convert a text to lower case, and remove punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub("", text.lower())).split())


def words_of(text: str) -> list[str]:
    """Split a text into the words that F1 compares. Each Chinese or Japanese character is a word."""
    return _WORD.findall(normalise(text))


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """Return 1 if the answer equals a gold answer after normalisation, else 0. Without gold answers "" is right."""
    return float(any(words_of(answer) == words_of(gold_answer) for gold_answer in gold or [""]))


def word_f1(answer: str, gold: Sequence[str]) -> float:
    """Compute the largest F1 of words with a gold answer. Without gold answers "" is right."""
    return max(_f1(words_of(answer), words_of(gold_answer)) for gold_answer in gold or [""])


def _f1(words: list[str], gold_words: list[str]) -> float:
    if not words or not gold_words:
        return float(words == gold_words)
    shared = sum((Counter(words) & Counter(gold_words)).values())
    return 2 * shared / (len(words) + len(gold_words))


def moments(answers: Sequence[str], gold: Sequence[Sequence[str]]) -> Moments:
    """Compute the mean `f1` and `exact_match` of answers [rows] over the rows, each with its gold answers."""
    pairs = zip(answers, gold, strict=True)
    rows = [[word_f1(answer, row_gold), exact_match(answer, row_gold)] for answer, row_gold in pairs]
    return Moments(
        np.array(rows, dtype=np.float64).reshape(-1, 2),
        {"f1": lambda sums, count: sums[..., 0] / count, "exact_match": lambda sums, count: sums[..., 1] / count},
    )
