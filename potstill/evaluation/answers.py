"""Exact match and F1 of answers, as SQuAD scores them (Rajpurkar et al. 2016), also for scripts without spaces."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from potstill.evaluation.statistics import Comparison, verdict

Doubles = npt.NDArray[np.float64]
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


def mean_interval(values: Doubles, *, replicates: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of a mean over resampled rows (Efron & Tibshirani 1993, ch. 13).

    Raises:
        ValueError: no rows.
    """
    low, high = np.quantile(_means(values, replicates, seed), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_mean_bootstrap(
    first: Doubles, second: Doubles, *, replicates: int, confidence: float, seed: int
) -> Comparison:
    """Mean of one model's row scores minus another's, on the same rows (Efron & Tibshirani 1993, ch. 13).

    Raises:
        ValueError: no rows, or another number of them.
    """
    if first.shape != second.shape:
        raise ValueError("the two models were not scored on the same rows")
    differences = first - second
    low, high = np.quantile(_means(differences, replicates, seed), [(1 - confidence) / 2, (1 + confidence) / 2])
    return verdict(float(differences.mean()), float(low), float(high))


def _means(values: Doubles, replicates: int, seed: int) -> Doubles:
    """[replicates] means over draws of rows."""
    if not len(values):
        raise ValueError("no rows")
    random = np.random.default_rng(seed)
    return np.array([values[random.integers(0, len(values), len(values))].mean() for _ in range(replicates)])
