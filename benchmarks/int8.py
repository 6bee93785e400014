"""Measures the INT8 files on one core, with and without each measure that makes them fast and close to fp32.

Run in a workspace after `potstill run`: `python benchmarks/int8.py [--rounds 7] [--write]`. Every variant answers the
same test texts in process, one text a call, and they take turns. What counts is the processor time of the thread, to
which other load adds little, and a ratio is taken within a round. Differences to fp32 are measured on dev. `--write`
puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from potstill import environment

environment.prepare()

import numpy as np  # noqa: E402
from results import flags, machine, publish, spread, today, versions  # noqa: E402

from potstill.config.evaluation_params import Export  # noqa: E402
from potstill.data.tokens.token_folder import TokenFolder  # noqa: E402
from potstill.distillation.teachers.predict import predict_logits  # noqa: E402
from potstill.evaluation.gold import read_texts  # noqa: E402
from potstill.inference import runtime  # noqa: E402
from potstill.kinds.definitions.task_kinds import KINDS  # noqa: E402
from potstill.models.loading import load_classifier  # noqa: E402
from potstill.onnx_export import onnx_model, variants  # noqa: E402
from potstill.onnx_export.serving_folder import write_serving_folder  # noqa: E402
from potstill.paths import PREPARED, TEST_SPLIT, TOKENS  # noqa: E402

MARK = "<!-- int8 -->"
# Texts of a model's turn, and texts before it that fill the caches again.
TURN = 40
WARM_UP = 10

Measures = dict[str, Callable[[], AbstractContextManager[Any]]]
# Measure -> context in which a file is written and loaded without it.
MEASURES: Measures = {
    "the last layer for every token": lambda: patch.object(onnx_model, "first_token_only", lambda model: nullcontext()),
    "attention as torch exports it": lambda: patch.object(onnx_model, "attention", lambda model, name: nullcontext()),
    "outliers not divided": lambda: patch.object(
        variants, "divide_outliers", lambda source, target, rows: shutil.copyfile(source, target)
    ),
    "sums and norms fused by onnxruntime": lambda: patch.object(runtime, "SLOW_FUSIONS", []),
}


@dataclass(frozen=True)
class Variant:
    """A model, the measures that it goes without, and how many products stay in fp32."""

    model: str
    without: tuple[str, ...] = ()
    fp32_products: int = 0

    def load(self, folder: Path, tokens: TokenFolder) -> runtime.Student:
        """Export the model, and load it into the serving runtime on one core."""
        folder.mkdir()
        model = load_classifier(Path("data") / self.model)
        dev = tokens.split("dev")
        reference = predict_logits(model, dev.select(np.arange(min(variants.CALIBRATION_ROWS, len(dev)))))
        paths = folder / "fp32.onnx", folder / "int8.onnx"
        settings = Export(int8_fp32_products=self.fp32_products)
        with ExitStack() as stack:
            for name in self.without:
                stack.enter_context(MEASURES[name]())
            variants.write_variants(
                model, paths, dev, reference, settings, pair=tokens.info["token_types"], clock=lambda _: nullcontext()
            )
            write_serving_folder(folder, paths[1], "int8", tokens, 1.0)
            return runtime.Student(folder, threads=1)


ALL = tuple(MEASURES)
VARIANTS = {
    "student": Variant("student"),
    **{f"student, {name}": Variant("student", (name,)) for name in MEASURES},
    "student, outliers not divided, a product in fp32": Variant("student", ("outliers not divided",), 1),
    "student, all of these, a product in fp32: as it was": Variant("student", ALL, 1),
    "teacher": Variant("teacher"),
    "teacher, all of these, a product in fp32: as it was": Variant("teacher", ALL, 1),
}


def measure(students: dict[str, runtime.Student], texts: list[Any], rounds: int) -> dict[str, list[float]]:
    """Return model -> ms of processor time for a text, of each round."""
    times: dict[str, list[float]] = {name: [] for name in students}
    names = list(students)
    for _ in range(rounds):
        seconds = dict.fromkeys(names, 0.0)
        for first in range(0, len(texts), TURN):
            names = names[1:] + names[:1]
            for name in names:
                for text in texts[:WARM_UP]:
                    students[name].predict([text])
                start = time.thread_time()
                for text in texts[first : first + TURN]:
                    students[name].predict([text])
                seconds[name] += time.thread_time() - start
        for name, total in seconds.items():
            times[name].append(1000 * total / len(texts))
    return times


def differences(students: dict[str, runtime.Student], tokens: TokenFolder) -> dict[str, tuple[float, float, float]]:
    """Return model -> score on dev, agreement with fp32 and mean difference of a logit to it."""
    texts, labels = read_texts(PREPARED / "dev.parquet")
    scoring = KINDS[tokens.task].scoring
    exact = {
        name: predict_logits(load_classifier(Path("data") / name), tokens.split("dev"))
        for name in ("student", "teacher")
    }
    results = {}
    for name, student in students.items():
        logits, reference = student.logits(texts), exact[VARIANTS[name].model]
        error = float(np.abs(logits - reference).mean())
        results[name] = scoring.score(logits, labels), scoring.agreement(reference, logits), error
    return results


def table(times: dict[str, list[float]], dev: dict[str, tuple[float, float, float]]) -> list[str]:
    """Return a Markdown table, with speeds as multiples of the first model's."""
    lines = [
        "| INT8 | texts/s of a core | of the first (min–max) | dev score, % | agreement with fp32, % | logit error |",
        "|---|---|---|---|---|---|",
    ]
    first = next(iter(times.values()))
    for name, rounds in times.items():
        ratios = [base / milliseconds for base, milliseconds in zip(first, rounds, strict=True)]
        score, agreement, error = dev[name]
        lines.append(
            f"| {name} | {1000 / statistics.median(rounds):,.0f} | {spread(ratios, 2)} | {100 * score:.1f} "
            f"| {100 * agreement:.1f} | {error:.3f} |"
        )
    return lines


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--texts", type=int, default=200, help="texts a model answers in a round")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    tokens = TokenFolder.open(TOKENS)
    texts, _ = read_texts(TEST_SPLIT)
    with tempfile.TemporaryDirectory() as scratch:
        students = {
            name: variant.load(Path(scratch) / str(number), tokens)
            for number, (name, variant) in enumerate(VARIANTS.items())
        }
        dev = differences(students, tokens)
        times = measure(students, texts[: arguments.texts], arguments.rounds)
    head = (
        f"{machine()} ({flags()}), {today()}; {versions('onnxruntime')}; {arguments.rounds} alternating rounds of "
        f"{arguments.texts} texts, one a call, in processor time."
    )
    section = "\n".join([head, "", *table(times, dev)])
    publish(MARK, section, write=arguments.write)


if __name__ == "__main__":
    main()
