"""Values of metrics.json and gate.json, which may be anything, and the words in which pages and sentences put them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Outcome of a comparison -> what the candidate does, before the name of its rival.
OUTCOMES = {"BEATS": "beats", "LOSES": "loses to", "NO DIFFERENCE": "cannot be told apart from"}


# --- reading ----------------------------------------------------------------------------------------------------------


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def finite(value: Any) -> float | None:
    """Return a finite number as float; None for anything else, True and False included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def count(value: Any) -> int | None:
    """Return a number of rows; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def with_bounds(key: str) -> tuple[str, str, str]:
    """Return the keys of a score and of the two ends of its interval."""
    return key, f"{key}_low", f"{key}_high"


def read_difference(comparison: Any) -> tuple[float, float, float] | None:
    """Return difference, low and high of a comparison; None where one of them is no finite number."""
    values = mapping(comparison)
    difference = finite(values.get("difference"))
    low = finite(values.get("low"))
    high = finite(values.get("high"))
    if difference is None or low is None or high is None:
        return None
    return difference, low, high


def judged_slices(report: Any) -> list[Mapping[str, Any]]:
    """List the slices of a section `slices` that were judged; none where the section has another form."""
    parts = mapping(report).get("slices")
    return [mapping(part) for part in parts] if isinstance(parts, Sequence) and not isinstance(parts, str) else []


def slice_losses(report: Any) -> Iterator[tuple[Mapping[str, Any], str, Mapping[str, Any]]]:
    """Yield (slice, rival, comparison) where the candidate loses to a rival, of a section `slices`."""
    for part in judged_slices(report):
        for rival, comparison in mapping(part.get("rivals")).items():
            if mapping(comparison).get("outcome") == "LOSES" and read_difference(comparison) is not None:
                yield part, rival, comparison


# --- words ------------------------------------------------------------------------------------------------------------


def signed_points(difference: float) -> str:
    """Format a difference of scores in percentage points."""
    return f"{100 * difference:+.1f}"


def signed_interval(low: float, high: float) -> str:
    """Format the interval of a difference of scores in percentage points."""
    return f"{signed_points(low)} to {signed_points(high)}"


def percent_interval(low: float, high: float) -> str:
    """Format the interval of a score in percent, without the sign of percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}"
