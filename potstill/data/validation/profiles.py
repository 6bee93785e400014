"""Profiles prepared data, and measures its distance from the last accepted profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from potstill.artifacts import read_json, verify
from potstill.data.divergence import psi
from potstill.errors import FormatError
from potstill.paths import ACCEPTED_PROFILE

_BINS = 10


def build_profile(
    lengths: Mapping[str, Sequence[int]],
    labels: Mapping[str, Sequence[str]],
    targets: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Profile data, as in `data/validation/profile.json`.

    Args:
        lengths: split -> characters of each text, or of both texts of a pair.
        labels: split -> label name of each row.
        targets: split -> number of each row, for a regression.

    Returns:
        `lengths`: split -> the inner edges of its deciles and the share in each; `labels`: split -> label -> share;
        `rows`: split -> count; for a regression `targets`, like lengths. Splits without rows are left out.
    """
    profile = {
        "rows": {split: len(values) for split, values in lengths.items()},
        "lengths": {split: _deciles(values) for split, values in lengths.items() if len(values)},
        "labels": {split: _shares_by_name(names) for split, names in labels.items() if len(names)},
    }
    if targets:
        profile["targets"] = {split: _deciles(values) for split, values in targets.items() if len(values)}
    return profile


def _shares_by_name(names: Sequence[str]) -> dict[str, float]:
    return {name: count / len(names) for name, count in sorted(Counter(names).items())}


def drift(
    accepted: Mapping[str, Any],
    lengths: Mapping[str, Sequence[int]],
    labels: Mapping[str, Sequence[str]],
    targets: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, float]:
    """Compute the population stability index of each distribution against the accepted profile.

    The distributions are named `train length`, `train label` and so on. An index below 0.1 is usually called stable,
    above 0.25 a shift (Siddiqi, "Credit Risk Scorecards", 2006). Splits without rows, now or in the profile, are left
    out, since row counts have checks of their own.

    Raises:
        FormatError: the accepted data is no profile.
    """
    result: dict[str, float] = {}
    try:
        numbers = (("length", accepted["lengths"], lengths), ("target", accepted.get("targets", {}), targets or {}))
        for name, references, values in numbers:
            for split, reference in references.items():
                if len(values.get(split, ())):
                    shares = _shares(values[split], reference["edges"])
                    result[f"{split} {name}"] = psi(reference["shares"], shares)
        for split, shares in accepted["labels"].items():
            counts = Counter(labels.get(split, ()))
            if total := sum(counts.values()):
                names = sorted(shares.keys() | counts.keys())
                result[f"{split} label"] = psi([shares.get(n, 0.0) for n in names], [counts[n] / total for n in names])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _no_profile() from error
    return result


def read_accepted(path: Path) -> dict[str, Any]:
    """Read the profile that was accepted last; empty if none was.

    Raises:
        FormatError: the file holds no JSON, as after a merge with conflicts.
    """
    try:
        profile: dict[str, Any] = read_json(path)
    except ValueError as error:
        raise _no_profile() from error
    return profile


def _no_profile() -> FormatError:
    return FormatError(
        f"{ACCEPTED_PROFILE} is not a profile of this version; put {{}} in it, run, and accept the new profile"
    )


def accept_profile(validation: Path) -> dict[str, Any]:
    """Read the verified profile of `data/validation`, which becomes `data/accepted.json`.

    Raises:
        ChecksumError: the folder is missing or was altered.
    """
    verify(validation)
    profile: dict[str, Any] = read_json(validation / "profile.json")
    return profile


def _deciles(values: Sequence[float]) -> dict[str, list[float]]:
    edges = sorted({float(edge) for edge in np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])})
    return {"edges": edges, "shares": _shares(values, edges)}


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    bins = np.searchsorted(np.asarray(edges), np.asarray(values), side="left")
    return [float(count) / len(values) for count in np.bincount(bins, minlength=len(edges) + 1)]
