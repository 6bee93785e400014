"""Sums over bootstrap resamples of rows: exact, on one thread, and fast for many rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from potstill.scores.metrics import Doubles

Counts = npt.NDArray[np.integer]

# Up to this many draws in all, every row is drawn by its index. More draws take a faster way, with other numbers.
_FEW_DRAWS = 50_000_000
# Draws that are held in memory at once.
_DRAWS = 2_000_000
# A binomial number takes as long as this many rows of a Poisson resample.
_BINOMIAL_COST = 25
# Rows of a Poisson resample whose counts are multiplied at once, so that they stay in the processor's cache.
_TILE = 4096
_AT_ONCE = 8
# Counts of a Poisson number that are tabulated: larger ones have a probability below 1e-40.
_COUNTS = 40
# Marks a byte that does not decide the count.
_UNDECIDED = 255


def resampled_sums(parts: Sequence[Doubles], *, replicates: int, seed: int) -> list[Doubles]:
    """Sum columns over rows that are drawn with replacement, with the same draws for all parts.

    Every method gives counts of the rows that are multinomial, as the bootstrap asks (Efron & Tibshirani 1993, ch. 13):

    - few draws: row by row;
    - many draws of few distinct rows: one multinomial number for each distinct row;
    - many draws of distinct rows: see `_poisson_counts`.

    Args:
        parts: [rows, k] columns of each model.
        replicates: resamples.
        seed: of the draws. Equal seeds give equal draws for equal parts.

    Returns:
        [replicates, k] sums of each part.
    """
    rows = len(parts[0])
    random = np.random.default_rng(seed)
    if rows * replicates <= _FEW_DRAWS:
        blocks = [[counts @ columns for columns in parts] for counts in _drawn_counts(random, rows, replicates)]
        return [np.concatenate(sums) for sums in zip(*blocks, strict=True)]
    columns = np.concatenate(parts, axis=1)
    kinds, sizes = np.unique(columns, axis=0, return_counts=True)
    if len(kinds) * _BINOMIAL_COST <= rows:
        counts = _kind_counts(random, sizes, replicates)
        sums = np.concatenate([block @ kinds for block in counts])
    else:
        sums = np.concatenate([_product(block, columns) for block in _poisson_counts(random, rows, replicates)])
    ends = np.cumsum([part.shape[1] for part in parts])
    return np.split(sums, ends[:-1], axis=1)


def _drawn_counts(random: np.random.Generator, rows: int, replicates: int) -> Iterator[Doubles]:
    """Yield blocks [resamples, rows] of how often each row was drawn."""
    for size in _blocks(replicates, max(_DRAWS // max(rows, 1), 1)):
        drawn = random.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=size * rows).reshape(size, rows).astype(np.float64)


def _kind_counts(random: np.random.Generator, sizes: Counts, replicates: int) -> Iterator[Counts]:
    """Yield blocks [resamples, kinds] of how often a row of each kind was drawn."""
    rows = int(sizes.sum())
    for size in _blocks(replicates, max(_DRAWS // len(sizes), 1)):
        yield random.multinomial(rows, sizes / rows, size=size)


def _poisson_counts(random: np.random.Generator, rows: int, replicates: int) -> Iterator[Counts]:
    """Yield blocks [resamples, rows] of how often each row was drawn, mostly from one random byte a row.

    Independent Poisson numbers of one rate are multinomial given their sum (Devroye 1986, ch. XI.1). Their rate is so
    far below 1 that the sum hardly ever exceeds the number of rows; a block where one does is drawn again, which
    changes nothing given the sum. The draws that are missing are drawn by index.
    """
    table, distribution = _poisson_table(1 / (1 + 4 / np.sqrt(rows)))
    for size in _blocks(replicates, _AT_ONCE):
        missing = np.array([-1])
        while missing.min() < 0:
            counts = _poisson_numbers(random, size * rows, table, distribution).reshape(size, rows)
            missing = rows - counts.sum(axis=1, dtype=np.uint32).astype(np.int64)
        drawn = random.integers(rows, size=int(missing.sum())) + np.repeat(rows * np.arange(size), missing)
        np.add.at(counts.reshape(-1), drawn, np.uint8(1))  # a plain 1 takes NumPy's slow way
        yield counts


def _poisson_table(rate: float) -> tuple[bytes, Doubles]:
    """Compute the count that each value of a byte stands for, and the distribution of counts where it is undecided.

    Of 256 values, as many stand for a count as fit into its probability. The remaining probability is left to the
    values that are undecided, so that the mixture is the Poisson distribution to the last bit of a double.
    """
    probabilities = np.exp(-rate) * np.cumprod([1.0, *(rate / count for count in range(1, _COUNTS))])
    values = np.floor(probabilities * 256).astype(np.int64)
    table = np.full(256, _UNDECIDED, dtype=np.uint8)
    table[: values.sum()] = np.repeat(np.arange(_COUNTS), values)
    distribution = np.cumsum(probabilities - values / 256)
    return table.tobytes(), distribution / distribution[-1]


def _poisson_numbers(
    random: np.random.Generator, size: int, table: bytes, distribution: Doubles
) -> npt.NDArray[np.uint8]:
    """Draw Poisson numbers by the table of `_poisson_table` and, where it is undecided, by the distribution."""
    raw = random.bit_generator.random_raw(-(-size // 8)).tobytes()
    counts = np.frombuffer(raw.translate(table), np.uint8)[:size].copy()
    undecided = np.flatnonzero(counts == _UNDECIDED)
    counts[undecided] = np.searchsorted(distribution, random.random(len(undecided)), side="right")
    return counts


def _product(counts: Counts, columns: Doubles) -> Doubles:
    """Compute counts @ columns, without a copy of all counts as doubles."""
    tile = np.empty((len(counts), _TILE))
    sums = np.zeros((len(counts), columns.shape[1]))
    for start in range(0, len(columns), _TILE):
        part = columns[start : start + _TILE]
        block = tile[:, : len(part)]
        block[:] = counts[:, start : start + _TILE]
        sums += block @ part
    return sums


def _blocks(total: int, size: int) -> Iterator[int]:
    """Yield the sizes of the blocks that a total is divided into."""
    for start in range(0, total, size):
        yield min(size, total - start)
