"""Measures rows/s and the memory of `potstill predict` over time, for files of many rows.

Run in a workspace after `potstill run`: `python benchmarks/predicting_rows.py [--rows 100000 10000000] [--write]`. The
texts of the workspace repeat: a window has `WINDOW_TEXTS` different ones, the next window others. Before each file and
after it the runtime answers all different texts in process, on the same cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from predicting import champion, core_seconds, different_texts, in_process, write_rows
from results import machine, publish, today, versions

from potstill.compute.processes import usable_cores
from potstill.inference.runtime import Student

MARK = "<!-- predicting-rows -->"
WINDOW_TEXTS = 32
PERIODS = 5
SAMPLE_SECONDS = 0.5


class Reading(NamedTuple):
    """The cost of a file.

    Attributes:
        rows: of the file.
        megabytes: of the file.
        seconds: of the clock, from the start of the process to its end.
        core_seconds: of all cores.
        in_process: texts/s of the runtime in process.
        peaks: [PERIODS] highest memory in MB in each part of the time.
    """

    rows: int
    megabytes: float
    seconds: float
    core_seconds: float
    in_process: float
    peaks: list[float]


def repeat(texts: Sequence[str], rows: int, window_rows: int) -> Iterator[str]:
    """Yield the text of each row."""
    for row in range(rows):
        yield texts[(row // window_rows * WINDOW_TEXTS + row % WINDOW_TEXTS) % len(texts)]


def texts_per_second(student: Student, texts: list[str]) -> float:
    """Answer texts in process."""
    start = time.perf_counter()
    in_process(student, texts)
    return len(texts) / (time.perf_counter() - start)


def predict(source: Path, output: Path) -> list[tuple[float, float]]:
    """Run `potstill predict` as a process.

    Returns:
        Seconds since its start and its memory in MB, every now and then.
    """
    words = [sys.executable, "-P", "-m", "flows.cli", "predict", str(source), "--text", "text", "--out", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen(words)
    samples: list[tuple[float, float]] = []
    is_over = threading.Event()

    def sample() -> None:
        watched = psutil.Process(process.pid)
        while not is_over.wait(SAMPLE_SECONDS):
            samples.append((time.perf_counter() - start, watched.memory_info().rss / 1e6))

    sampling = threading.Thread(target=sample)
    sampling.start()
    # The process is waited for last: until then its number is its own.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    is_over.set()
    sampling.join()
    if process.wait():
        raise RuntimeError(f"potstill predict ended with {process.returncode}")
    return samples


def peaks(samples: Sequence[tuple[float, float]]) -> list[float]:
    """Find the highest memory in each part of the time."""
    end = samples[-1][0]
    highest = [0.0] * PERIODS
    for seconds, megabytes in samples:
        period = min(int(PERIODS * seconds / end), PERIODS - 1)
        highest[period] = max(highest[period], megabytes)
    return highest


def measure(rows: int, texts: list[str], student: Student, window_rows: int) -> Reading:
    """Write a file, answer it, and remove all of it."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_rows(Path(folder) / "rows.csv", repeat(texts, rows, window_rows))
        size = source.stat().st_size / 1e6
        before = texts_per_second(student, texts)
        used = core_seconds()
        start = time.perf_counter()
        samples = predict(source, Path(folder) / "answers.parquet")
        seconds = time.perf_counter() - start
        used = core_seconds() - used
    in_process = statistics.mean((before, texts_per_second(student, texts)))
    reading = Reading(rows, size, seconds, used, in_process, peaks(samples))
    print(reading, flush=True)
    return reading


def section(readings: Sequence[Reading], texts: int) -> str:
    """Return the table in Markdown."""
    lines = [
        f"{machine()}, of which {usable_cores()} used, {today()}, load {os.getloadavg()[0]:.1f}; "
        f"{versions('onnxruntime', 'pyarrow')}; {texts:,} different texts, {WINDOW_TEXTS} of them in a window.",
        "",
        "| rows | MB of CSV | s | rows/s | ÷ texts/s in process | cores' µs a row | peak MB, by fifth of the time |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {item.rows:,} | {item.megabytes:,.0f} | {item.seconds:,.0f} | {item.rows / item.seconds:,.0f} | "
        f"{item.rows / item.seconds / item.in_process:.1f}× | {1e6 * item.core_seconds / item.rows:.0f} | "
        f"{', '.join(f'{peak:.0f}' for peak in item.peaks)} |"
        for item in readings
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    from potstill import environment

    environment.prepare()
    params, model = champion()
    texts = different_texts(arguments.texts)
    student = Student(model.serving)
    readings = [measure(rows, texts, student, params.predict.window_rows) for rows in arguments.rows]
    result = section(readings, len(texts))
    publish(MARK, result, write=arguments.write)


if __name__ == "__main__":
    main()
