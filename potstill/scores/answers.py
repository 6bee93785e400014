"""Exact match and F1 of answers, as SQuAD scores them (Rajpurkar et al. 2016), also for scripts without spaces."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from potstill.scores.statistics import Moments

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# ASCII's, as SQuAD has it, and those of Chinese and Japanese.
_PUNCTUATION = re.compile(
    f"[{re.escape(string.punctuation)}\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)
# A character of a script without spaces is a word of its own.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub("", text.lower())).split())


def words_of(text: str) -> list[str]:
    """The words that F1 compares; each Chinese or Japanese character is one."""
    return _WORD.findall(normalise(text))


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 where the answer is one of the gold answers, normalised; a row without gold answers wants an empty one."""
    return float(any(words_of(answer) == words_of(one) for one in gold or [""]))


def word_f1(answer: str, gold: Sequence[str]) -> float:
    """The best F1 of words with one of the gold answers; a row without gold answers wants an empty one."""
    return max(_f1(words_of(answer), words_of(one)) for one in gold or [""])


def _f1(ours: list[str], theirs: list[str]) -> float:
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def moments(answers: Sequence[str], gold: Sequence[Sequence[str]]) -> Moments:
    """`f1` and `exact_match` of answers [rows] to the gold answers of each row, means over the rows."""
    rows = [[word_f1(answer, ones), exact_match(answer, ones)] for answer, ones in zip(answers, gold, strict=True)]
    return Moments(
        np.array(rows, dtype=np.float64).reshape(-1, 2),
        {"f1": lambda sums, count: sums[..., 0] / count, "exact_match": lambda sums, count: sums[..., 1] / count},
    )
