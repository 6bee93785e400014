"""Which of a teacher's layers a student starts from, where nobody names them, and which are worth trying."""

from __future__ import annotations

from potstill.errors import ModelError


def default_layers(available: int, count: int | None = None) -> list[int]:
    """Choose layers in even strides from the first one.

    Args:
        available: layers of the teacher.
        count: layers of the student; None: half of the teacher's.
    """
    count = max(available // 2, 1) if count is None else count
    return [position * available // count for position in range(count)]


def candidate_layers(available: int, count: int) -> list[tuple[int, ...]]:
    """List the choices of `count` of `available` layers that published comparisons try, each once.

    The default comes first. The others are strides that end with the last layer, an even spread from the first to the
    last, the lowest, the highest, and the lowest with the last (Sun et al. 2019, "Patient Knowledge Distillation";
    Sajjad et al. 2023, "On the Effect of Dropping Layers of Pre-trained Transformer Models").

    Raises:
        ModelError: there are not that many layers.
    """
    if not 1 <= count <= available:
        raise ModelError(f"{count} layers cannot be chosen of {available}; ask for 1 to {available}")
    stride = available // count
    spread = [round(position * (available - 1) / max(count - 1, 1)) for position in range(count)]
    candidates = [
        tuple(default_layers(available, count)),
        tuple(range(available - 1 - stride * (count - 1), available, stride)),
        tuple(spread),
        tuple(range(count)),
        tuple(range(available - count, available)),
        (*range(count - 1), available - 1),
    ]
    return list(dict.fromkeys(candidates))
