"""Short sketches of long vectors: random projections whose signs are a hash, so that no table of them is kept.

Achlioptas 2003, "Database-friendly random projections"; signs by hash as in Weinberger et al. 2009, "Feature hashing".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Numbers of a sketch.
DIRECTIONS = 16


def signs(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[ids, directions] 1 or -1: the sign that each id, of a token or of a dimension, has in each direction."""
    bits = (_splitmix(ids)[:, None] >> np.arange(DIRECTIONS, dtype=np.uint64)) & np.uint64(1)
    return bits.astype(np.float64) * 2 - 1


def directions(width: int) -> npt.NDArray[np.float32]:
    """[width, directions] by which vectors are multiplied; as long as they are on average."""
    return np.asarray(signs(np.arange(width)) / np.sqrt(width), dtype=np.float32)


def _splitmix(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014), as a hash: the same everywhere and for ever."""
    mixed = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
