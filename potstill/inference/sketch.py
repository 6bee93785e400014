"""Short sketches of long vectors: random projections whose signs come from a hash, so that no table is stored.

Achlioptas 2003, "Database-friendly random projections"; signs by hash as in Weinberger et al. 2009, "Feature hashing".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

# Length of a sketch.
DIRECTIONS = 16


def signs(ids: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float64]]:
    """Yield for each direction the sign, 1 or -1, of each id (of a token or a dimension): [ids].

    The tokens of a million texts have 128 bytes each in all directions at once, and 8 in a direction.
    """
    mixed = _splitmix(ids)
    for direction in range(DIRECTIONS):
        yield ((mixed >> np.uint64(direction)) & np.uint64(1)).astype(np.float64) * 2 - 1


def directions(width: int) -> npt.NDArray[np.float32]:
    """Compute the projection matrix [width, directions] for vectors of a width; it keeps their length on average."""
    return np.asarray(np.stack(list(signs(np.arange(width))), axis=1) / np.sqrt(width), dtype=np.float32)


def _splitmix(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014), as a hash that is the same on every machine."""
    mixed = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
