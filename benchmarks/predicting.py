"""Compares `potstill predict` with the runtime in process and with the loop by hand: pandas and `mlflow.pyfunc`.

Run in a workspace after `potstill run`: `python benchmarks/predicting.py [--rounds 3] [--write]`. All answer the same
different texts of one CSV and take turns; a ratio is taken within each turn. Then `potstill predict` answers files of
few different texts and many rows, whose peak memory is measured.

With `--ray-python PYTHON`, benchmarks/predicting_ray.py takes its turns too, in that environment: ray[data], torch,
transformers and psutil. Ray is not installed next to Potstill.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from results import machine, replace_section, spread, today, versions

MARK = "<!-- predicting -->"
CHUNK = 2048
SPLITS = ("train", "dev", "test", "transfer")
# Different texts of the files for which memory is measured.
FEW = 64
# Of the kernel's unit for the peak memory of a process.
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
IN_PROCESS = "the runtime in process, no file"
RAY = "Ray Data with `transformers.pipeline`"
# Answers all texts; returns the seconds and the cores' seconds if it has measured them itself.
Call = Callable[[], tuple[float, float] | None]


class Speed(NamedTuple):
    """Texts a second, and the time of all cores for a text."""

    texts_per_second: float
    core_ms: float


class Memory(NamedTuple):
    """Rows of a file, the seconds that `potstill predict` took, and its peak memory in MB."""

    rows: int
    seconds: float
    megabytes: float


def different_texts(count: int) -> list[str]:
    """Return different texts of the workspace in random order."""
    import pyarrow.parquet as pq

    from potstill.data.corpus import prepared_texts
    from potstill.paths import PREPARED

    paths = [PREPARED / f"{split}.parquet" for split in SPLITS]
    tables = [pq.read_table(path, columns=["text"]) for path in paths if path.exists()]
    texts = dict.fromkeys(str(text) for table in tables for text in prepared_texts(table))
    return random.Random(1).sample(list(texts), min(count, len(texts)))


def write_rows(path: Path, texts: Iterable[str]) -> Path:
    """Write a CSV with the columns `id` and `text`."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(texts))
    return path


def contenders(source: Path, texts: list[str], scratch: Path) -> dict[str, Call]:
    """Return what answers the texts, by name."""
    import mlflow
    import pandas

    from flows.commands.predict_files import chosen_model
    from potstill.config.params_file import load_params
    from potstill.config.predict_params import Predict
    from potstill.inference.runtime import Student
    from potstill.paths import PARAMS
    from potstill.prediction.file_prediction import predict_files
    from potstill.registry.tracking import tracking_uri

    params = load_params(PARAMS)
    model = chosen_model(Path.cwd(), params, "champion")
    student = Student(model.serving)
    mlflow.set_tracking_uri(tracking_uri(Path.cwd()))
    registered = mlflow.pyfunc.load_model(f"models:/{params.project.name}@champion")
    outputs = itertools.count()

    def by_hand() -> None:
        output = scratch / f"{next(outputs)}.csv"
        for number, chunk in enumerate(pandas.read_csv(source, chunksize=CHUNK)):
            answers = pandas.concat([chunk, registered.predict(chunk[["text"]])], axis=1)
            answers.to_csv(output, mode="a", header=not number, index=False)

    def by_potstill() -> None:
        predict_files([str(source)], scratch / f"{next(outputs)}.csv", model, ("text",), None, Predict())

    def in_process() -> None:
        student.predict(texts)

    return {
        IN_PROCESS: in_process,
        "`potstill predict`, CSV to CSV": by_potstill,
        "pandas and `mlflow.pyfunc` by hand": by_hand,
    }


def ray_peer(python: Path, source: Path, scratch: Path) -> Call:
    """Return what answers the texts under Ray Data: the same student, before it was quantized."""
    outputs = itertools.count()

    def call() -> tuple[float, float]:
        words = [python, Path(__file__).with_name("predicting_ray.py"), Path("data/student").resolve(), source]
        output = scratch / f"ray-{next(outputs)}"
        printed = subprocess.run([*words, output], stdout=subprocess.PIPE, text=True, check=True).stdout
        seconds, core_seconds, packages = printed.splitlines()[-1].split("\t")
        print(f"{RAY}: {packages}", flush=True)
        return float(seconds), float(core_seconds)

    return call


def measure(calls: dict[str, Call], rounds: int, texts: int) -> dict[str, list[Speed]]:
    """Return name -> the speed in each round."""
    speeds: dict[str, list[Speed]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            used = _core_seconds()
            measured = call()
            seconds, core_seconds = measured or (time.perf_counter() - start, _core_seconds() - used)
            speeds[name].append(Speed(texts / seconds, 1000 * core_seconds / texts))
    return speeds


def _core_seconds() -> float:
    """The time that this process and its ended children have had of all cores."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_memory(rows: int, texts: list[str], scratch: Path) -> Memory:
    """Run `potstill predict` as a process over a file of few different texts."""
    source = write_rows(scratch / f"{rows}.csv", itertools.islice(itertools.cycle(texts[:FEW]), rows))
    words = [sys.executable, "-P", "-m", "flows.cli", "predict", str(source), "--text", "text"]
    start = time.perf_counter()
    process = subprocess.Popen([*words, "--out", str(scratch / f"{rows}.parquet")], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"potstill predict ended with {os.waitstatus_to_exitcode(status)}")
    return Memory(rows, time.perf_counter() - start, usage.ru_maxrss * _MAXRSS_BYTES / 1e6)


def section(speeds: dict[str, list[Speed]], texts: int, memory: list[Memory]) -> str:
    """Return the tables in Markdown."""
    base = speeds[IN_PROCESS]
    packages = versions("onnxruntime", "pandas", "mlflow", "pyarrow")
    lines = [
        f"{machine()}, {today()}, load {os.getloadavg()[0]:.1f}; {packages}; {len(base)} alternating rounds of "
        f"{texts:,} different texts, the start included.",
        "",
        "| | texts/s | ratio (min–max) | cores' ms a text | ratio (min–max) |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in speeds.items():
        pairs = list(zip(rounds, base, strict=True))
        faster = spread([speed.texts_per_second / other.texts_per_second for speed, other in pairs], 2)
        cheaper = spread([other.core_ms / speed.core_ms for speed, other in pairs], 2)
        rate, cost = (statistics.median(column) for column in zip(*rounds, strict=True))
        lines.append(f"| {name} | {rate:,.0f} | {faster} | {cost:.2f} | {cheaper} |")
    lines += ["", f"| rows ({FEW} different texts) | s | rows/s | peak MB |", "|---|---|---|---|"]
    lines += [
        f"| {item.rows:,} | {item.seconds:.0f} | {item.rows / item.seconds:,.0f} | {item.megabytes:.0f} |"
        for item in memory
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=8192)
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000], help="files for the memory")
    parser.add_argument("--ray-python", type=Path, help="the Python of an environment with Ray, torch and transformers")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    from potstill import environment

    environment.prepare()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        texts = different_texts(arguments.texts)
        source = write_rows(scratch / "texts.csv", texts)
        calls = contenders(source, texts, scratch)
        if arguments.ray_python is not None:
            calls[RAY] = ray_peer(arguments.ray_python, source, scratch)
        speeds = measure(calls, arguments.rounds, len(texts))
        memory = [measure_memory(rows, texts, scratch) for rows in arguments.rows]
    result = section(speeds, len(texts), memory)
    print(result)
    if arguments.write:
        replace_section(MARK, result)


if __name__ == "__main__":
    main()
