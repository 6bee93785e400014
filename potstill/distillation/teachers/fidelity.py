"""The loss of accuracy of stored signals: rounding errors, and their effect on the teacher's probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.scores.metrics import log_softmax

Floats = npt.NDArray[np.floating[Any]]

# Temperatures at which the stored softmax is compared with the exact one.
TEMPERATURES = (1, 2, 4)
# How many numbers are compared in fp64 at a time.
_CHUNK = 2**20


# Sums of rounding errors over a shard: name of the array -> `count`, `largest` and `total` of the absolute errors.
# `logits` of at least two classes also have the number of `answers`, how many `changed`, and `kl_<T>`.
ErrorSums = dict[str, dict[str, float]]


def add_errors(shard: ErrorSums, name: str, exact: Floats, stored: Floats) -> None:
    """Add the rounding errors of an array to the sums of its shard."""
    sums = shard.setdefault(name, {"count": 0.0, "largest": 0.0, "total": 0.0})
    errors = np.abs(stored.astype(np.float32) - exact)
    sums["count"] += errors.size
    sums["largest"] = max(sums["largest"], float(errors.max(initial=0.0)))
    sums["total"] += float(errors.sum(dtype=np.float64))
    if name == "logits" and exact.ndim > 1 and exact.shape[-1] > 1:
        _add_answers(sums, exact.reshape(-1, exact.shape[-1]), stored.reshape(-1, exact.shape[-1]))


def report(shards: Iterable[ErrorSums]) -> dict[str, Any]:
    """Combine the sums of all shards into a report.

    Returns:
        `arrays`: name -> `largest_error` and `mean_error`, absolute. For logits of at least two classes also `kl`, the
        mean KL(exact || stored) of their softmax in nats at each temperature, and `changed_argmax`, the share of
        answers whose largest logit changed.
    """
    sums: ErrorSums = {}
    for shard in shards:
        for name, values in shard.items():
            total = sums.setdefault(name, {})
            for key, value in values.items():
                before = total.get(key, 0.0)
                total[key] = max(before, value) if key == "largest" else before + value
    combined: dict[str, Any] = {
        "arrays": {
            name: {"largest_error": values["largest"], "mean_error": values["total"] / max(values["count"], 1)}
            for name, values in sums.items()
        }
    }
    logits = sums.get("logits", {})
    if "answers" in logits:
        combined["kl"] = {str(T): logits[f"kl_{T}"] / max(logits["answers"], 1) for T in TEMPERATURES}
        combined["changed_argmax"] = logits["changed"] / max(logits["answers"], 1)
    return combined


def _add_answers(sums: dict[str, float], exact: Floats, stored: Floats) -> None:
    """Add [answers, classes] logits to the sums."""
    step = max(_CHUNK // exact.shape[1], 1)
    for start in range(0, len(exact), step):
        exact_part, stored_part = (part[start : start + step].astype(np.float64) for part in (exact, stored))
        changed = (exact_part.argmax(axis=1) != stored_part.argmax(axis=1)).sum()
        added = {"answers": float(len(exact_part)), "changed": float(changed)}
        added |= {f"kl_{T}": _divergence(exact_part / T, stored_part / T) for T in TEMPERATURES}
        for key, value in added.items():
            sums[key] = sums.get(key, 0.0) + value


def _divergence(exact: npt.NDArray[np.float64], stored: npt.NDArray[np.float64]) -> float:
    """Sum KL(softmax(exact) || softmax(stored)) over the rows, in nats; negative rounding errors become 0."""
    log_exact = log_softmax(exact)
    log_stored = log_softmax(stored)
    return max(float((np.exp(log_exact) * (log_exact - log_stored)).sum()), 0.0)
