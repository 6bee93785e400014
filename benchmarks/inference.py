"""The served student beside the teacher in `transformers.pipeline`: texts/s and milliseconds, as ratios with spread.

Run in a workspace after `potstill run`: `python benchmarks/inference.py [--rounds 9] [--write]`. All models answer the
same test texts and take turns; a ratio is taken within each turn, so another load hits both sides of it.
`--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from potstill import environment

environment.prepare()

from results import machine, replace_section, spread, today  # noqa: E402

from potstill.artifacts import read_json  # noqa: E402
from potstill.evaluation.contenders import served_student, teacher_pipeline  # noqa: E402
from potstill.evaluation.latency import BATCH, measure_side_by_side  # noqa: E402
from potstill.evaluation.texts import read_texts  # noqa: E402

MARK = "<!-- inference -->"


def measure(rounds: int, texts_per_round: int) -> dict[str, list[tuple[float, float]]]:
    """Model -> (texts/s, p50 ms of one text) of each round."""
    texts, _ = read_texts(Path("data/prepared/test.parquet"))
    serving, export = Path("data/serving"), Path("data/export")
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        calls = {"teacher in transformers.pipeline": teacher_pipeline(Path("data/teacher"), 128)}
        for variant in ("fp32", "int8"):
            student = served_student(export / f"student.{variant}.onnx", variant, serving, Path(scratch) / variant)
            calls[f"student {variant} in the serving runtime"] = student.predict
        for turn in range(rounds):
            chosen = [texts[(turn * texts_per_round + i) % len(texts)] for i in range(texts_per_round)]
            speeds = measure_side_by_side(calls, chosen, latency_texts=50, throughput_texts=texts_per_round, rounds=1)
            for name, speed in speeds.items():
                found.setdefault(name, []).append((speed.texts_per_second, speed.p50_ms))
    return found


def table(found: dict[str, list[tuple[float, float]]]) -> list[str]:
    """Markdown: medians, and the ratio to the teacher with its range over the rounds."""
    lines = [
        f"| | texts/s (lists of {BATCH}) | ratio (min–max) | p50 ms, one text | ratio (min–max) |",
        "|---|---|---|---|---|",
    ]
    teacher = next(iter(found.values()))
    for name, rounds in found.items():
        faster = [mine[0] / theirs[0] for mine, theirs in zip(rounds, teacher, strict=True)]
        sooner = [theirs[1] / mine[1] for mine, theirs in zip(rounds, teacher, strict=True)]
        rate, delay = (statistics.median(column) for column in zip(*rounds, strict=True))
        lines.append(f"| {name} | {rate:,.0f} | {spread(faster)} | {delay:.2f} | {spread(sooner)} |")
    return lines


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--texts", type=int, default=200, help="texts a model answers in a round")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    found = measure(arguments.rounds, arguments.texts)
    metrics = read_json(Path("reports/metrics.json"))
    head = f"{machine()}, {today()}; {arguments.rounds} alternating rounds of {arguments.texts} texts; "
    section = "\n".join([f"{head}{metrics['shipped']} ships.", "", *table(found)])
    print(section)
    if arguments.write:
        replace_section(MARK, section)


if __name__ == "__main__":
    main()
