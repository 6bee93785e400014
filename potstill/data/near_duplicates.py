"""Finds near copies by MinHash (Broder, "On the resemblance and containment of documents", 1997), from `datasketch`.

MinHash only proposes pairs. Each is checked by its true Jaccard similarity, so nothing is removed by chance.
"""

from __future__ import annotations

import itertools
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

# The shingles of each text of a row.
Parts = tuple[frozenset[int], ...]
# Hashes of the bands of a row's signature, or of many rows.
Hashes = NDArray[np.int64]

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
        self._shape = _bands(threshold)
        self._tables: list[_BandTable] = []
        # Packed: as sets, the shingles of a million rows would take gigabytes.
        self._parts: list[tuple[array[int], ...]] = []

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """Add rows of one or two texts. They are numbered from 0 in the order of their arrival."""
        first = len(self._parts)
        hashes = []
        for parts, row_hashes in self._hashed(rows):
            self._parts.append(tuple(array("I", part) for part in parts))
            hashes.append(row_hashes)
        if hashes:
            self._tables.append(_BandTable(np.stack(hashes), first))

    def matches(self, rows: Iterable[Sequence[str]]) -> list[list[int]]:
        """List for each row the numbers of the added rows of which it is a near copy, ascending."""
        if not self._parts:
            return [[] for _ in rows]
        return [self._near(parts, hashes) for parts, hashes in self._hashed(rows)]

    def _near(self, parts: Parts, hashes: Hashes) -> list[int]:
        proposed = set[int]().union(*(table.rows_with(hashes) for table in self._tables))
        return sorted(number for number in proposed if self._are_near(parts, self._parts[number]))

    def _are_near(self, row: Parts, other: Sequence[Iterable[int]]) -> bool:
        return all(jaccard(a, frozenset(b)) >= self._threshold for a, b in zip(row, other, strict=True))

    def _hashed(self, rows: Iterable[Sequence[str]]) -> Iterator[tuple[Parts, Hashes]]:
        """Give each row's shingles and the hash of each band of its signature, a row at a time."""
        parts, hashed = itertools.tee(tuple(shingles(text, part) for part, text in enumerate(row)) for row in rows)
        # The shingles are hashes already; the permutations' seed is fixed.
        sets = (frozenset().union(*row) for row in hashed)
        signatures = MinHash.generator(sets, num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
        count, width = self._shape
        for row, signature in zip(parts, signatures, strict=True):
            bands = signature.hashvalues[: count * width].reshape(count, width)
            yield row, np.array([hash((number, band.tobytes())) for number, band in enumerate(bands)])


class _BandTable:
    """The rows of each hash of a band, in sorted arrays: 16 bytes a band, where `datasketch.MinHashLSH` takes 300."""

    def __init__(self, hashes: Hashes, first: int) -> None:
        """Args: hashes: of each band of each row (rows, bands); first: the number of the first row."""
        order = np.argsort(hashes, axis=None)
        self._hashes = hashes.ravel()[order]
        self._rows = first + order // hashes.shape[1]

    def rows_with(self, hashes: Hashes) -> set[int]:
        """Return the numbers of the rows that share a hash with a row (bands)."""
        starts = np.searchsorted(self._hashes, hashes, "left").tolist()
        ends = np.searchsorted(self._hashes, hashes, "right").tolist()
        spans = [self._rows[start:end].tolist() for start, end in zip(starts, ends, strict=True)]
        return set(itertools.chain.from_iterable(spans))


def _bands(threshold: float) -> tuple[int, int]:
    """Choose (bands, rows of a band): the widest bands that reach the recall, since these propose the fewest pairs."""
    for rows in range(_PERMUTATIONS, 1, -1):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return _PERMUTATIONS, 1
