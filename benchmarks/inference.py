"""Compares the served student with the teacher in `transformers.pipeline`: texts/s and milliseconds, as ratios.

Run in a workspace after `potstill run`: `python benchmarks/inference.py [--rounds 9] [--write]`. All models answer the
same test texts and take turns. A ratio is taken within each turn, so that other load affects both sides of it.
`--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from potstill import environment

environment.prepare()

from results import machine, publish, spread, today  # noqa: E402

from potstill.artifacts import read_json  # noqa: E402
from potstill.evaluation.contenders import served_student, teacher_pipeline  # noqa: E402
from potstill.evaluation.gold import read_texts  # noqa: E402
from potstill.evaluation.latency import BATCH, measure_side_by_side  # noqa: E402
from potstill.paths import METRICS, SERVING, TEST_SPLIT  # noqa: E402

MARK = "<!-- inference -->"


def measure(rounds: int, texts_per_round: int) -> dict[str, list[tuple[float, float]]]:
    """Return model -> (texts/s, p50 ms of one text) of each round."""
    texts, _ = read_texts(TEST_SPLIT)
    readings: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        calls = {"teacher in transformers.pipeline": teacher_pipeline(Path("data/teacher"), 128)}
        for variant in ("fp32", "int8"):
            model = Path(f"data/export/student.{variant}.onnx")
            student = served_student(model, variant, SERVING, Path(scratch) / variant)
            calls[f"student {variant} in the serving runtime"] = student.predict
        for turn in range(rounds):
            chosen = [texts[(turn * texts_per_round + i) % len(texts)] for i in range(texts_per_round)]
            speeds = measure_side_by_side(calls, chosen, latency_texts=50, throughput_texts=texts_per_round, rounds=1)
            for name, speed in speeds.items():
                readings.setdefault(name, []).append((speed.texts_per_second, speed.p50_ms))
    return readings


def table(readings: dict[str, list[tuple[float, float]]]) -> list[str]:
    """Return a Markdown table: medians, and the ratio to the teacher with its range over the rounds."""
    lines = [
        f"| | texts/s (lists of {BATCH}) | ratio (min–max) | p50 ms, one text | ratio (min–max) |",
        "|---|---|---|---|---|",
    ]
    teacher = next(iter(readings.values()))
    for name, rounds in readings.items():
        throughput_ratios = [model[0] / base[0] for model, base in zip(rounds, teacher, strict=True)]
        latency_ratios = [base[1] / model[1] for model, base in zip(rounds, teacher, strict=True)]
        rate, latency = (statistics.median(column) for column in zip(*rounds, strict=True))
        lines.append(
            f"| {name} | {rate:,.0f} | {spread(throughput_ratios)} | {latency:.2f} | {spread(latency_ratios)} |"
        )
    return lines


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--texts", type=int, default=200, help="texts a model answers in a round")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    readings = measure(arguments.rounds, arguments.texts)
    metrics = read_json(METRICS)
    head = f"{machine()}, {today()}; {arguments.rounds} alternating rounds of {arguments.texts} texts; "
    section = "\n".join([f"{head}{metrics['shipped']} ships.", "", *table(readings)])
    publish(MARK, section, write=arguments.write)


if __name__ == "__main__":
    main()
