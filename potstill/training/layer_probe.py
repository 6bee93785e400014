"""Which layers to start a student from: candidates, each trained for a short while on the cached signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potstill.errors import ModelError


@dataclass(frozen=True)
class Probed:
    """How far a candidate came.

    Attributes:
        layers: it started from, from 0.
        agreement: share of the answers to dev that are its teacher's; of numbers the correlation.
        distance: from its teacher's answers: mean KL(teacher || candidate) in nats, of numbers the RMSE.
        score: the task's, on the gold labels of dev.
        seconds: it took.
    """

    layers: tuple[int, ...]
    agreement: float
    distance: float
    score: float
    seconds: float


def candidate_layers(available: int, count: int) -> list[tuple[int, ...]]:
    """Choices of `count` of `available` layers that published comparisons try, without doubles.

    In strides from the first layer and from the last, evenly from first to last, the lowest, the highest, and the
    lowest with the last (Sun et al. 2019, "Patient Knowledge Distillation"; Sajjad et al. 2023, "On the Effect of
    Dropping Layers of Pre-trained Transformer Models").

    Raises:
        ModelError: there are not that many layers.
    """
    if not 1 <= count <= available:
        raise ModelError(f"{count} layers cannot be chosen of {available}; ask for 1 to {available}")
    stride = available // count
    spread = [round(place * (available - 1) / max(count - 1, 1)) for place in range(count)]
    found = [
        tuple(range(0, stride * count, stride)),
        tuple(range(available - 1 - stride * (count - 1), available, stride)),
        tuple(spread),
        tuple(range(count)),
        tuple(range(available - count, available)),
        (*range(count - 1), available - 1),
    ]
    return list(dict.fromkeys(found))


def ranked(found: Sequence[Probed]) -> list[Probed]:
    """The best first: by agreement, of equals the nearer to the teacher."""
    return sorted(found, key=lambda probed: (-probed.agreement, probed.distance))
