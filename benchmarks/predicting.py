"""Compares `potstill predict` with the runtime in process and with the loop by hand: pandas and `mlflow.pyfunc`.

Run in a workspace after `potstill run`: `python benchmarks/predicting.py [--rounds 3] [--write]`. All answer the same
different texts of one CSV and take turns; a ratio is taken within each turn. Files of many rows are measured by
benchmarks/predicting_rows.py.

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
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from results import machine, publish, spread, today, versions

from potstill.compute.processes import usable_cores

if TYPE_CHECKING:
    from potstill.config.params import Params
    from potstill.inference.runtime import Student
    from potstill.prediction.file_prediction import ChosenModel

MARK = "<!-- predicting -->"
CHUNK = 2048
SPLITS = ("train", "dev", "test", "transfer")
IN_PROCESS = "the runtime in process, no file"
RAY = "Ray Data with `transformers.pipeline`"
# Answers all texts; returns the seconds and the cores' seconds if it has measured them itself.
Call = Callable[[], tuple[float, float] | None]


class Speed(NamedTuple):
    """Texts a second, and the time of all cores for a text."""

    texts_per_second: float
    core_ms: float


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


def champion() -> tuple[Params, ChosenModel]:
    """Return the params of the workspace and its champion."""
    from flows.commands.predict_files import chosen_model
    from potstill.config.params_file import load_params
    from potstill.paths import PARAMS

    params = load_params(PARAMS)
    return params, chosen_model(Path.cwd(), params, "champion")


def contenders(source: Path, texts: list[str], scratch: Path) -> dict[str, Call]:
    """Return what answers the texts, by name."""
    import mlflow
    import pandas

    from potstill.config.predict_params import Predict
    from potstill.inference.runtime import Student
    from potstill.prediction.file_prediction import predict_files
    from potstill.registry.tracking import tracking_uri

    params, model = champion()
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

    return {
        IN_PROCESS: partial(in_process, student, texts),
        "`potstill predict`, CSV to CSV": by_potstill,
        "pandas and `mlflow.pyfunc` by hand": by_hand,
    }


def in_process(student: Student, texts: list[str]) -> None:
    """Answer texts with the runtime."""
    student.predict(texts)


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
            used = core_seconds()
            measured = call()
            seconds, used = measured or (time.perf_counter() - start, core_seconds() - used)
            speeds[name].append(Speed(texts / seconds, 1000 * used / texts))
    return speeds


def core_seconds() -> float:
    """The time that this process and its ended children have had of all cores."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def speed_table(speeds: dict[str, list[Speed]]) -> list[str]:
    """Return the lines of a table in Markdown, with the ratios to the runtime in process."""
    lines = [
        "| | texts/s | ratio (min–max) | cores' ms a text | ratio (min–max) |",
        "|---|---|---|---|---|",
    ]
    for name, rounds in speeds.items():
        pairs = list(zip(rounds, speeds[IN_PROCESS], strict=True))
        faster = spread([speed.texts_per_second / other.texts_per_second for speed, other in pairs], 2)
        cheaper = spread([other.core_ms / speed.core_ms for speed, other in pairs], 2)
        rate, cost = (statistics.median(column) for column in zip(*rounds, strict=True))
        lines.append(f"| {name} | {rate:,.0f} | {faster} | {cost:.2f} | {cheaper} |")
    return lines


def section(speeds: dict[str, list[Speed]], texts: int) -> str:
    """Return the table in Markdown."""
    packages = versions("onnxruntime", "pandas", "mlflow", "pyarrow")
    lines = [
        f"{machine()}, of which {usable_cores()} used, {today()}, load {os.getloadavg()[0]:.1f}; {packages}; "
        f"{len(speeds[IN_PROCESS])} alternating rounds of {texts:,} different texts, the start included.",
        "",
        *speed_table(speeds),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=8192)
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
    result = section(speeds, len(texts))
    publish(MARK, result, write=arguments.write)


if __name__ == "__main__":
    main()
