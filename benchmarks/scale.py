"""Measures seconds a row and peak memory of the stages and of `potstill predict` as the rows grow.

`python benchmarks/scale.py [--rows 10000 100000 1000000] [--write]`, in a checkout. Every stage runs as a user runs it:
`python -m tasks.NAME`, a process of its own in a workspace of `potstill init`. A tiny encoder is the teacher. The
models come from one `potstill run` of 2,000 rows: training is not measured, since its time follows from the epochs.
`--write` puts the tables into benchmarks/RESULTS.md and the plot next to it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from results import RESULTS, machine, replace_section, today, versions

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
# The stages that are measured, in their order.
STAGES = ("ingest", "prepare", "validate", "tokenize", "signals", "evaluate")
# What the trained workspace has made, as what the others evaluate.
COPIED = ("teacher", "teacher_int8", "student", "control", "initialised", "proof", "export", "serving")
PREDICT = "predict"
GROWTH_LIMIT = 1.3
MEMORY_LIMIT_GB = 2.0
# Of the kernel's unit for the peak memory of a process.
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


class Reading(NamedTuple):
    """Seconds of the clock, seconds of all cores, and the peak memory in GB of a process."""

    seconds: float
    core_seconds: float
    gigabytes: float


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
    write_tiny_base(home / "base")
    source = write_csv(home / "few.csv", generate_rows(TRAINED_ROWS))
    folder = make_workspace(home / "trained", source, home / "base", home, SETTINGS)
    command("potstill", "run", cwd=folder, home=home, seconds=3600)


def measure(rows: int, trained: Path, home: Path) -> dict[str, Reading]:
    """Run the stages and `potstill predict` over that many rows; return name -> its reading."""
    source = write_csv(home / f"{rows}.csv", generate_rows(rows))
    folder = make_workspace(home / f"rows-{rows}", source, home / "base", home, SETTINGS)
    readings: dict[str, Reading] = {}

    def stage(name: str) -> None:
        readings[name] = run([sys.executable, "-m", f"tasks.{name}"], folder, home)
        print(f"{rows:,} rows, {name}: {readings[name]}", flush=True)

    for name in ("ingest", "prepare", "validate", "pretrain", "tokenize"):
        stage(name)
    for name in COPIED:
        shutil.copytree(trained / "data" / name, folder / "data" / name)
    stage("signals")
    stage("evaluate")
    words = [sys.executable, "-P", "-m", "flows.cli", PREDICT, str(source), "--text", "text"]
    readings[PREDICT] = run([*words, "--out", str(home / f"answers-{rows}.parquet")], trained, home)
    print(f"{rows:,} rows, {PREDICT}: {readings[PREDICT]}", flush=True)
    shutil.rmtree(folder)
    source.unlink()
    return {name: readings[name] for name in (*STAGES, PREDICT)}


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
    for name in (*STAGES, PREDICT):
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
    for name in (*STAGES, PREDICT):
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
        trained = home / "trained"
        if not trained.exists():
            train(home)
        readings = {rows: measure(rows, trained, home) for rows in arguments.rows}
    result = section(readings)
    print(result)
    if arguments.write:
        replace_section(MARK, result)
        plot(readings)


if __name__ == "__main__":
    main()
