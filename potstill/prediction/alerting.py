"""Alerts: answers are counted in windows of time, and each rule that a window breaks is told once.

The counts are kept next to the output, and so is which rule was told in which window. So they last over restarts, and
all processes that answer the same stream share them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from potstill.artifacts import read_json_if_present, write_json
from potstill.compute.processes import hold
from potstill.config.alerts_params import Alerts
from potstill.inference.profile import Counts, Profile
from potstill.inference.runtime import ModelCard
from potstill.prediction.alert_rules import DAY_SECONDS, Finding, answer_counts, check_rules, judge

_TOLD = "told "
# Seconds for which windows are kept: the day that is judged, and the day before it.
_KEPT = 2 * DAY_SECONDS
Windows = dict[int, defaultdict[str, float]]


@dataclass(frozen=True)
class Alert:
    """A rule that a window of answers breaks.

    Attributes:
        rule: name of the rule.
        start: of the window, in seconds since 1970.
        end: of the window.
        texts: texts of the window so far.
        finding: what breaks the rule.
    """

    rule: str
    start: int
    end: int
    texts: int
    finding: Finding

    @property
    def sentence(self) -> str:
        """What is told."""
        start, end = (datetime.fromtimestamp(seconds, UTC) for seconds in (self.start, self.end))
        return f"{self.rule}: {self.finding.sentence} ({start:%Y-%m-%d %H:%M} to {end:%H:%M} UTC)"


class CountStore(Protocol):
    """Numbers by key, which last over restarts."""

    def add(self, changes: Mapping[str, float]) -> dict[str, float]:
        """Add to the numbers; return all."""

    def claim(self, key: str) -> bool:
        """Add a key; whether it was not there."""

    def remove(self, keys: Iterable[str]) -> None:
        """Remove keys."""


class FileCounts:
    """Numbers in a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = path.with_suffix(".lock")

    def add(self, changes: Mapping[str, float]) -> dict[str, float]:  # noqa: D102
        return self._change(lambda numbers: numbers | {key: numbers.get(key, 0) + changes[key] for key in changes})

    def claim(self, key: str) -> bool:  # noqa: D102
        return self.add({key: 1})[key] == 1

    def remove(self, keys: Iterable[str]) -> None:  # noqa: D102
        removed = set(keys)
        self._change(lambda numbers: {key: numbers[key] for key in numbers.keys() - removed})

    def _change(self, change: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, float]:
        with hold(self._lock, what="counting answers", wait_seconds=60):
            numbers = change(read_json_if_present(self._path))
            write_json(self._path, numbers)
        return numbers


class Alerting:
    """Counts answers in windows and tells of those that break rules.

    Args:
        alerts: the section `alerts`.
        card: card of the model.
        profile: profile of the model.
        store: where counts are kept.
        tell: is called for each alert, once.

    Raises:
        LabelError: the model has no label that a rule names.
        ParamsError: the model has no labels, or no confidence.
    """

    def __init__(
        self, alerts: Alerts, card: ModelCard, profile: Profile, store: CountStore, tell: Callable[[Alert], None]
    ) -> None:
        check_rules(alerts, card, profile)
        self._alerts = alerts
        self._card = card
        self._profile = profile
        self._store = store
        self._tell = tell
        self._seconds = 60 * alerts.window_minutes
        self._changes: defaultdict[str, float] = defaultdict(float)
        # At the start too: a process that was killed may have counted and not told.
        self._is_due = bool(alerts.rules)

    def start_of(self, seconds: float) -> int:
        """Return the start of the window of a time, both in seconds since 1970."""
        return int(seconds // self._seconds) * self._seconds

    def count(self, start: int, counts: Counts) -> None:
        """Count answers of the window that starts then; `judge` writes them to the store."""
        if not self._alerts.rules:
            return
        self._is_due = True
        for name, number in answer_counts(counts, self._card, self._profile).items():
            self._changes[f"{start} {name}"] += number

    def judge(self) -> None:
        """Write what was counted, and tell of what breaks rules: the newest window, and those that have changed."""
        if not self._is_due:
            return
        windows = _windows(self._store.add(self._changes))
        changed = _windows(self._changes).keys()
        self._changes.clear()
        newest = max(windows, default=0)
        for start in sorted(windows):
            if start == newest or (start in changed and start > newest - DAY_SECONDS):
                self._judge_window(start, windows)
        old = [f"{start} {name}" for start, names in windows.items() if start < newest - _KEPT for name in names]
        if old:
            self._store.remove(old)
        self._is_due = False

    def _judge_window(self, start: int, windows: Windows) -> None:
        window = windows[start]
        day: defaultdict[str, float] = defaultdict(float)
        for other, counts in windows.items():
            if start - DAY_SECONDS <= other < start:
                for name, number in counts.items():
                    day[name] += number
        for name, rule in self._alerts.rules.items():
            if f"{_TOLD}{name}" in window:
                continue
            finding = judge(rule, window, day, self._alerts.min_texts)
            if finding is not None and self._store.claim(f"{start} {_TOLD}{name}"):
                self._tell(Alert(name, start, start + self._seconds, int(window["texts"]), finding))


def _windows(numbers: Mapping[str, float]) -> Windows:
    """Sort numbers by the windows that their keys begin with."""
    windows: Windows = defaultdict(lambda: defaultdict(float))
    for key, number in numbers.items():
        start, _, name = key.partition(" ")
        windows[int(start)][name] = number
    return windows
