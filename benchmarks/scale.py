"""Measures seconds a row and peak memory of the stages and of `potstill predict` as the rows grow.

`python benchmarks/scale.py [--rows 10000 100000 1000000] [--write]`, in a checkout. Every stage runs as a user runs it:
`python -m tasks.NAME`, a process of its own in a workspace of `potstill init`. A tiny encoder is the teacher. The
models come from one `potstill run` of 2,000 rows: training is not measured, since its time follows from the epochs.
`--write` puts the tables into benchmarks/RESULTS.md and the plot next to it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from results import RESULTS, machine, publish, today, versions

from tests.conftest import generate_rows, write_csv, write_tiny_base
from tests.e2e.workspaces import TINY, command, environment, make_workspace

MARK = "<!-- scale -->"
PLOT = RESULTS.with_name("scale.svg")
SIZES = (10_000, 100_000, 1_000_000)
TRAINED_ROWS = 2_000
SETTINGS = [
    *TINY,
    "prepare.augment.splices=1",
    "control.initialised=false",
    "distill.epochs=2",
    "control.epochs=2",
    *(f"gate.{name}=null" for name in ("min_accuracy", "min_macro_f1", "min_teacher_ratio")),
]
BEFORE_TRAINING = ("ingest", "prepare", "validate", "pretrain", "tokenize")
AFTER_TRAINING = ("signals", "evaluate")
# What `potstill run` of the few rows has trained and exported.
COPIED = ("teacher", "teacher_int8", "student", "control", "initialised", "proof", "export", "serving")
PREDICT = "predict"
MEASURED = (*BEFORE_TRAINING, *AFTER_TRAINING, PREDICT)
MEMORY_LIMIT_GB = 2.0
# Bytes of the unit in which the kernel gives the peak memory of a process.
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


class Reading(NamedTuple):
    """Seconds of the clock, seconds of all cores, and the peak memory in GB of a process."""

    seconds: float
    core_seconds: float
    gigabytes: float


def write_rows(path: Path, rows: int) -> None:
    """Write generated rows as CSV."""
    write_csv(path, generate_rows(rows))


def elsewhere(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a process that ends with it: to the kernel, the peak of a child includes its parent's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()


def run(words: list[str], folder: Path, home: Path) -> Reading:
    """Run a process to its end.

    Raises:
        RuntimeError: it failed.
    """
    log = home / "log.txt"
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(words, cwd=folder, env=environment(home), stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}: {log.read_text()}")
    core_seconds = usage.ru_utime + usage.ru_stime
    return Reading(time.perf_counter() - start, core_seconds, usage.ru_maxrss * _MAXRSS_BYTES / 1e9)


def train(home: Path) -> None:
    """Make the workspace `trained` whose champion answers, and whose models the larger workspaces evaluate."""
    elsewhere(write_tiny_base, home / "base")
    source = home / "few.csv"
    elsewhere(write_rows, source, TRAINED_ROWS)
    folder = make_workspace(home / "trained", source, home / "base", home, SETTINGS)
    command("potstill", "run", cwd=folder, home=home, seconds=3600)


def measure(rows: int, home: Path) -> dict[str, Reading]:
    """Run the stages and `potstill predict` over that many rows; return name -> its reading."""
    trained = home / "trained"
    readings: dict[str, Reading] = {}

    def note(name: str, reading: Reading) -> None:
        readings[name] = reading
        print(f"{rows:,} rows, {name}: {reading}", flush=True)

    with tempfile.TemporaryDirectory(dir=home) as scratch:
        source = Path(scratch) / "rows.csv"
        elsewhere(write_rows, source, rows)
        folder = make_workspace(Path(scratch) / "workspace", source, home / "base", home, SETTINGS)
        for name in BEFORE_TRAINING:
            note(name, run([sys.executable, "-m", f"tasks.{name}"], folder, home))
        for name in COPIED:
            shutil.copytree(trained / "data" / name, folder / "data" / name)
        for name in AFTER_TRAINING:
            note(name, run([sys.executable, "-m", f"tasks.{name}"], folder, home))
        words = ["potstill", PREDICT, str(source), "--text", "text", "--out", str(folder / "answers.parquet")]
        note(PREDICT, run(words, trained, home))
    return readings


def growth(readings: dict[int, dict[str, Reading]], name: str) -> float:
    """Divide the cores' time a row at the largest size by the smallest time a row at a smaller size."""
    *smaller, largest = [sizes[name].core_seconds / rows for rows, sizes in sorted(readings.items())]
    return largest / min(smaller, default=largest)


def section(readings: dict[int, dict[str, Reading]]) -> str:
    """Return the table in Markdown."""
    sizes = sorted(readings)
    titles = [f"{rows:,} rows: s, cores' µs a row, peak GB" for rows in sizes]
    lines = [
        f"{machine()}, {today()}, load {os.getloadavg()[0]:.1f}; {versions('pyarrow', 'datasketch', 'torch')}.",
        "",
        f"| | {' | '.join(titles)} | time a row, largest to least |",
        f"|---|{'---|' * (len(sizes) + 1)}",
    ]
    for name in MEASURED:
        cells = [
            f"{reading.seconds:,.0f}, {1e6 * reading.core_seconds / rows:,.0f}, {reading.gigabytes:.2f}"
            for rows, reading in ((rows, readings[rows][name]) for rows in sizes)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {growth(readings, name):.2f}× |")
    return "\n".join(lines)


def plot(readings: dict[int, dict[str, Reading]]) -> None:
    """Draw the cores' time a row and the peak memory over the rows, with the limits."""
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    sizes = sorted(readings)
    for name in MEASURED:
        chosen = [readings[rows][name] for rows in sizes]
        per_row = [1e6 * reading.core_seconds / rows for rows, reading in zip(sizes, chosen, strict=True)]
        times.plot(sizes, per_row, marker="o", label=name)
        memory.plot(sizes, [reading.gigabytes for reading in chosen], marker="o", label=name)
    memory.axhline(MEMORY_LIMIT_GB, color="grey", linestyle="--")
    times.set(xscale="log", yscale="log", xlabel="rows", ylabel="cores' µs a row")
    memory.set(xscale="log", xlabel="rows", ylabel="peak memory, GB")
    times.legend()
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--folder", type=Path, help="keep the trained workspace there, and use one that is there")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = (arguments.folder or Path(scratch)).resolve()
        if not (home / "trained").exists():
            train(home)
        readings = {rows: measure(rows, home) for rows in arguments.rows}
    result = section(readings)
    publish(MARK, result, write=arguments.write)
    if arguments.write:
        plot(readings)


if __name__ == "__main__":
    main()
