"""What storing signals in fewer bits costs: rounding errors, and what they do to the teacher's probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

# Temperatures at which the stored softmax is compared with the exact one.
TEMPERATURES = (1, 2, 4)
# Numbers compared in fp64 at once.
_AT_ONCE = 2**20


class Fidelity:
    """Sums over the signals of a shard, which those of other shards are added to (`report`).

    Attributes:
        sums: name of the array -> `count`, `largest` and `total` of the absolute rounding errors; of `logits` with two
            classes or more also `answers`, the `changed` ones among them, and `kl_<T>`.
    """

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, float]] = {}

    def add(self, name: str, exact: Floats, stored: Floats) -> None:
        """Compare an array with what is stored of it."""
        sums = self.sums.setdefault(name, {"count": 0.0, "largest": 0.0, "total": 0.0})
        errors = np.abs(stored.astype(np.float32) - exact)
        sums["count"] += errors.size
        sums["largest"] = max(sums["largest"], float(errors.max(initial=0.0)))
        sums["total"] += float(errors.sum(dtype=np.float64))
        if name == "logits" and exact.ndim > 1 and exact.shape[-1] > 1:
            _add_answers(sums, exact.reshape(-1, exact.shape[-1]), stored.reshape(-1, exact.shape[-1]))


def report(shards: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The sums of all shards as the user reads them.

    Returns:
        `arrays`: name -> `largest_error` and `mean_error`, absolute. Where logits have two classes or more: `kl`, the
        mean KL(exact || stored) of their softmax in nats at each temperature, and `changed_argmax`, the share of
        answers whose largest logit is another.
    """
    sums: dict[str, dict[str, float]] = {}
    for shard in shards:
        for name, values in shard.items():
            known = sums.setdefault(name, {})
            for key, value in values.items():
                known[key] = max(known.get(key, 0.0), value) if key == "largest" else known.get(key, 0.0) + value
    found: dict[str, Any] = {
        "arrays": {
            name: {"largest_error": values["largest"], "mean_error": values["total"] / max(values["count"], 1)}
            for name, values in sums.items()
        }
    }
    logits = sums.get("logits", {})
    if "answers" in logits:
        found["kl"] = {str(T): logits[f"kl_{T}"] / max(logits["answers"], 1) for T in TEMPERATURES}
        found["changed_argmax"] = logits["changed"] / max(logits["answers"], 1)
    return found


def _add_answers(sums: dict[str, float], exact: Floats, stored: Floats) -> None:
    """Add [answers, classes] logits to the sums."""
    step = max(_AT_ONCE // exact.shape[1], 1)
    for start in range(0, len(exact), step):
        ours, theirs = (part[start : start + step].astype(np.float64) for part in (exact, stored))
        changed = (ours.argmax(axis=1) != theirs.argmax(axis=1)).sum()
        found = {"answers": float(len(ours)), "changed": float(changed)}
        found |= {f"kl_{T}": _divergence(ours / T, theirs / T) for T in TEMPERATURES}
        for key, value in found.items():
            sums[key] = sums.get(key, 0.0) + value


def _divergence(exact: npt.NDArray[np.float64], stored: npt.NDArray[np.float64]) -> float:
    """The sum over the rows of KL(softmax(exact) || softmax(stored)), in nats; rounding can leave no less than 0."""
    ours, theirs = _log_softmax(exact), _log_softmax(stored)
    return max(float((np.exp(ours) * (ours - theirs)).sum()), 0.0)


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
