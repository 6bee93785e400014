"""Progress: a bar with rate and time left on a terminal, plain lines in a log file or CI."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

# Plain output: at most one line in this many seconds, so that a log of hours stays readable.
LINE_SECONDS = 10.0


class Bar(Protocol):
    """What a loop reports to."""

    def advance(self, amount: float, note: str = "") -> None:
        """`amount` more of the total is done; `note` is the running state (loss, score), kept until the next one."""


def say(text: str) -> None:
    """One line to the user, in order with everything else; of several processes under `torchrun` the first speaks."""
    if _speaks():
        print(text, flush=True)


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress(description: str, total: float, unit: str, *, done: float = 0) -> Iterator[Bar]:
    """Show how far a long loop is.

    Args:
        description: what is going on, such as "distill".
        total: amount of work, in `unit`s.
        unit: "rows", "tokens", "steps".
        done: what an earlier, interrupted run had finished.
    """
    if sys.stdout.isatty() and _speaks():
        with _terminal_bar(description, total, unit, done) as bar:
            yield bar
    else:
        plain = _Lines(description, total, unit, done)
        yield plain
        plain.finish()


class _Lines:
    def __init__(self, description: str, total: float, unit: str, done: float) -> None:
        self._description, self._total, self._unit = description, total, unit
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
        left = (self._total - self._done) / rate if rate > 0 else 0.0
        share = 100 * self._done / self._total if self._total else 100.0
        note = f"  {self._note}" if self._note else ""
        say(
            f"{self._description}: {self._done:,.0f}/{self._total:,.0f} {self._unit} ({share:.0f}%), "
            f"{rate:,.0f} {self._unit}/s, {left:.0f} s left{note}"
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
    with Progress(*columns) as shown:
        task = shown.add_task(description, total=total, completed=int(done), rate="", note="")
        start = time.monotonic()

        class Terminal:
            amount = 0.0

            def advance(self, amount: float, note: str = "") -> None:
                self.amount += amount
                rate = self.amount / max(time.monotonic() - start, 1e-9)
                fields = {"rate": f"{rate:,.0f} {unit}/s"} | ({"note": note} if note else {})
                shown.update(task, advance=amount, **fields)  # type: ignore[arg-type]

        yield Terminal()
