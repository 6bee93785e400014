"""Short sketches of long vectors: random projections whose signs come from a hash, so that no table is stored.

Achlioptas 2003, "Database-friendly random projections"; signs by hash as in Weinberger et al. 2009, "Feature hashing".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Length of a sketch.
DIRECTIONS = 16


def signs(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Compute the sign, 1 or -1, of each id (of a token or a dimension) in each direction: [ids, directions]."""
    bits = (_splitmix(ids)[:, None] >> np.arange(DIRECTIONS, dtype=np.uint64)) & np.uint64(1)
    return bits.astype(np.float64) * 2 - 1


def directions(width: int) -> npt.NDArray[np.float32]:
    """Compute the projection matrix [width, directions] for vectors of a width; it keeps their length on average."""
    return np.asarray(signs(np.arange(width)) / np.sqrt(width), dtype=np.float32)


def _splitmix(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014), as a hash that is the same on every machine."""
    mixed = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
