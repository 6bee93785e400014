"""Finds near copies by MinHash (Broder, "On the resemblance and containment of documents", 1997), from `datasketch`.

MinHash only proposes pairs. Each is checked by its true Jaccard similarity, so nothing is removed by chance.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

from datasketch import MinHash, MinHashLSH

# The shingles of each text of a row.
Parts = tuple[frozenset[int], ...]

_PERMUTATIONS = 32
# Probability that a pair exactly at the threshold is proposed. It is higher for more similar pairs.
_RECALL = 0.999
_WORD = re.compile(r"\w+")
# Above this mean length of white-space words, the script is taken for one without spaces.
_LONG_WORD = 12


def shingles(text: str, part: int = 0) -> frozenset[int]:
    """Hash a text's word 3-grams, or its character 5-grams if it has hardly any spaces (Chinese, Thai), to 32 bits.

    Punctuation and case do not count. A text too short for one shingle is a shingle by itself. `part` distinguishes the
    texts of a pair: equal words in different parts are different shingles.
    """
    folded = text.casefold()
    words = _WORD.findall(folded)
    has_spaces = len(folded) <= _LONG_WORD * len(folded.split())
    grams = _ngrams(words, 3, " ") if has_spaces else _ngrams("".join(words), 5, "")
    return frozenset(zlib.crc32((gram or folded).encode(), part) for gram in grams)


def _ngrams(units: Sequence[str], size: int, separator: str) -> list[str]:
    """Join each run of `size` units. Fewer units than that are one run."""
    return [separator.join(units[start : start + size]) for start in range(max(len(units) - size + 1, 1))]


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Divide the shared shingles of two texts by all of them."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class NearDuplicateIndex:
    """An index of texts, or pairs of texts, that finds those of which a row is a near copy.

    A pair is a near copy of another if each of its texts is: many questions about one passage are no copies. If both
    texts reach the threshold, so do the pair's shingles together. So MinHash over these misses no pair.
    """

    def __init__(self, threshold: float) -> None:
        """Args: threshold: the Jaccard similarity from which two texts are near copies, above 0 and up to 1."""
        self._threshold = threshold
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
        self._parts: list[Parts] = []

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """Add rows of one or two texts. They are numbered from 0 in the order of their arrival."""
        parts = [_parts(row) for row in rows]
        for number, signature in enumerate(_signatures(parts), start=len(self._parts)):
            self._lsh.insert(number, signature, check_duplication=False)
        self._parts += parts

    def matches(self, rows: Iterable[Sequence[str]]) -> list[list[int]]:
        """List for each row the numbers of the added rows of which it is a near copy, ascending."""
        if not self._parts:
            return [[] for _ in rows]
        parts = [_parts(row) for row in rows]
        return [
            sorted(number for number in self._lsh.query(signature) if self._are_near(row_parts, self._parts[number]))
            for row_parts, signature in zip(parts, _signatures(parts), strict=True)
        ]

    def _are_near(self, row: Parts, other: Parts) -> bool:
        return all(jaccard(a, b) >= self._threshold for a, b in zip(row, other, strict=True))


def _parts(row: Sequence[str]) -> Parts:
    return tuple(shingles(text, part) for part, text in enumerate(row))


def _signatures(rows: Iterable[Parts]) -> Iterable[MinHash]:
    # The shingles are hashes already; the permutations' seed is fixed.
    sets = (frozenset().union(*parts) for parts in rows)
    signatures: Iterable[MinHash] = MinHash.generator(sets, num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
    return signatures


def _bands(threshold: float) -> tuple[int, int]:
    """Choose (bands, rows of a band): the widest bands that reach the recall, since these propose the fewest pairs."""
    for rows in range(_PERMUTATIONS // 2, 1, -1):  # the library needs at least two bands
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return _PERMUTATIONS, 1
