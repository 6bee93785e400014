"""Near copies by MinHash (Broder, "On the resemblance and containment of documents", 1997), from `datasketch`.

MinHash only proposes: every pair it finds is checked by the true Jaccard similarity, so nothing is removed by chance.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

from datasketch import MinHash, MinHashLSH

# The shingles of each text of a row.
Parts = tuple[frozenset[int], ...]

_PERMUTATIONS = 32
# Chance that a pair exactly at the threshold is proposed; more similar pairs are surer.
_RECALL = 0.999
_WORD = re.compile(r"\w+")
# Characters a white-space word has on average, above which a script without spaces is assumed.
_LONG_WORD = 12


def shingles(text: str, part: int = 0) -> frozenset[int]:
    """A text's word 3-grams, or character 5-grams where it has hardly any spaces (Chinese, Thai), as 32-bit hashes.

    Punctuation and case do not count among words. A text too short for one shingle is one by itself. `part` tells the
    texts of a pair apart: equal words in different parts are different shingles.
    """
    folded = text.casefold()
    units: Sequence[str] = _WORD.findall(folded)
    size, glue = 3, " "
    if len(folded) > _LONG_WORD * len(folded.split()):
        units, size, glue = "".join(units), 5, ""
    grams = [glue.join(units[at : at + size]) for at in range(len(units) - size + 1)]
    return frozenset(zlib.crc32(gram.encode(), part) for gram in grams or [glue.join(units) or folded])


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Shared shingles over all shingles of two texts, 0 to 1."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class NearIndex:
    """Texts, or pairs of texts, to be found again by their near copies.

    A pair is a near copy of another if each of its texts is: many questions about one passage are no copies. Where
    both texts reach the threshold, the pair's shingles together do, so that MinHash over these misses none.
    """

    def __init__(self, threshold: float) -> None:
        """Args: threshold: Jaccard similarity of shingles from which two texts are near copies, above 0 to 1."""
        self._threshold = threshold
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
        self._parts: list[Parts] = []

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """Add rows of one or two texts; they are numbered in the order they come, from 0."""
        parts = [_parts(row) for row in rows]
        for number, signature in enumerate(_signatures(parts), start=len(self._parts)):
            self._lsh.insert(number, signature, check_duplication=False)
        self._parts += parts

    def matches(self, rows: Iterable[Sequence[str]]) -> list[list[int]]:
        """For each row, the numbers of the added rows of which it is a near copy, ascending."""
        if not self._parts:
            return [[] for _ in rows]
        parts = [_parts(row) for row in rows]
        return [
            sorted(number for number in self._lsh.query(signature) if self._near(mine, self._parts[number]))
            for mine, signature in zip(parts, _signatures(parts), strict=True)
        ]

    def _near(self, a: Parts, b: Parts) -> bool:
        return all(jaccard(mine, other) >= self._threshold for mine, other in zip(a, b, strict=True))


def _parts(row: Sequence[str]) -> Parts:
    return tuple(shingles(text, part) for part, text in enumerate(row))


def _signatures(rows: Iterable[Parts]) -> Iterable[MinHash]:
    # The shingles are hashes already; the permutations' seed is fixed.
    sets = (frozenset().union(*parts) for parts in rows)
    signatures: Iterable[MinHash] = MinHash.generator(sets, num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
    return signatures


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band): the widest bands, which propose fewest pairs, that still reach the recall."""
    for rows in range(_PERMUTATIONS // 2, 1, -1):  # the library wants two bands
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return _PERMUTATIONS, 1
