"""Progress: a bar with rate and time left on a terminal, plain lines in a log file or CI."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

# Plain output prints at most one line in this many seconds, so that the log of a long run stays readable.
LINE_SECONDS = 10.0


class Bar(Protocol):
    """The interface that a loop reports its progress to."""

    def advance(self, amount: float, note: str = "") -> None:
        """Count `amount` more as done; `note` (loss, score) is shown until the next one replaces it."""


def say(text: str) -> None:
    """Print one line for the user at once; under `torchrun` only the first process prints."""
    if _is_first_process():
        print(text, flush=True)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress(description: str, total: float, unit: str, *, done: float = 0) -> Iterator[Bar]:
    """Show the progress of a long loop.

    Args:
        description: name of the work, such as "distill".
        total: amount of work in the unit.
        unit: "rows", "tokens", "steps".
        done: amount that an earlier, interrupted run had finished.
    """
    if sys.stdout.isatty() and _is_first_process():
        with _terminal_bar(description, total, unit, done) as bar:
            yield bar
    else:
        lines = _Lines(description, total, unit, done)
        yield lines
        lines.finish()


class _Lines:
    """Progress as plain lines."""

    def __init__(self, description: str, total: float, unit: str, done: float) -> None:
        self._description = description
        self._total = total
        self._unit = unit
        self._first = self._done = done
        self._start = self._last = time.monotonic()
        self._note = ""

    def advance(self, amount: float, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            self._print()

    def finish(self) -> None:
        self._print()

    def _print(self) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._first) / seconds
        seconds_left = (self._total - self._done) / rate if rate > 0 else 0.0
        share = 100 * self._done / self._total if self._total else 100.0
        note = f"  {self._note}" if self._note else ""
        say(
            f"{self._description}: {self._done:,.0f}/{self._total:,.0f} {self._unit} ({share:.0f}%), "
            f"{rate:,.0f} {self._unit}/s, {seconds_left:.0f} s left{note}"
        )


@contextmanager
def _terminal_bar(description: str, total: float, unit: str, done: float) -> Iterator[Bar]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as display:
        task = display.add_task(description, total=total, completed=int(done), rate="", note="")
        start = time.monotonic()

        class Terminal:
            amount = 0.0

            def advance(self, amount: float, note: str = "") -> None:
                self.amount += amount
                rate = self.amount / max(time.monotonic() - start, 1e-9)
                fields = {"rate": f"{rate:,.0f} {unit}/s"} | ({"note": note} if note else {})
                display.update(task, advance=amount, **fields)  # type: ignore[arg-type]

        yield Terminal()
