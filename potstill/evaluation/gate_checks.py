"""Checks of the candidate against limits. Fail-closed: what is no finite number fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from potstill.evaluation.metrics_reading import count, finite

# Accuracies are ratios of counts: a difference that equals its limit must not fail by the last bit of a float.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One check of the candidate, mostly against a limit.

    Attributes:
        name: key under `gate` in params.yaml, or the name of a check that has no limit.
        value: the number judged; None where there is no finite one.
        limit: None for a check that is not a limit.
        passed: False for everything that is not certainly within the limit.
        sentence: the check in words, with the distance to the limit where it failed.
        low: lower end of the interval of the number, or of the number whose bound is judged; None without one.
        high: its upper end.
        rows: how many rows or cases the number is of; None for one that is not of rows.
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool
    sentence: str
    low: float | None = None
    high: float | None = None
    rows: int | None = None


def failed(name: str, sentence: str) -> Check:
    """Return a check that failed for a reason that is not a number."""
    return Check(name, None, None, False, sentence)


@dataclass(frozen=True)
class Limit:
    """A number with a limit in params.

    Attributes:
        words: its name in a sentence.
        value: as metrics.json has it, which may be anything.
        unit: after the number.
        low: lower end of its interval, raw.
        high: upper end, raw.
        rows: how many rows or cases it is of, raw.
    """

    words: str
    value: Any
    unit: str = ""
    low: Any = None
    high: Any = None
    rows: Any = None


def check_limit(name: str, limit: Limit, bound: float) -> Check:
    """Check a number against its limit, which is a minimum or a maximum by the beginning of its name."""
    value = finite(limit.value)
    if value is None:
        state = "missing" if limit.value is None else f"{limit.value!r}"[:40]
        return Check(name, None, bound, False, f"{limit.words} is {state}, which fails gate.{name}")
    is_minimum = name.startswith("min_")
    kind = "minimum" if is_minimum else "maximum"
    excess = bound - value if is_minimum else value - bound
    measured = f"{limit.words} {number(value)}{limit.unit}"
    passed = excess <= ROUNDING
    if passed:
        sentence = f"{measured} meets its {kind} of {number(bound)}{limit.unit}"
    else:
        distance = f"{number(excess)}{limit.unit} {'below' if is_minimum else 'above'}"
        sentence = f"{measured} is {distance} its {kind} of {number(bound)}{limit.unit} (gate.{name})"
    return Check(name, value, bound, passed, sentence, finite(limit.low), finite(limit.high), count(limit.rows))


def number(value: float) -> str:
    """Format with four decimals, or with two significant digits where four decimals would read as zero."""
    return f"{value:.2g}" if 0 < abs(value) < 5e-5 else f"{value:.4f}".rstrip("0").rstrip(".")
