"""Compares the rate of `potstill predict --from --to` over a Redis server with the runtime in process.

Run in a workspace after `potstill run`: `python benchmarks/predicting_stream.py [--rounds 3] [--write]`, with
redis-server installed, which keeps every step on disk before it answers. Both answer the same different texts and take
turns; a ratio is taken within each turn. Then records come one after the other, at a pace well below the rate: the ids
of a record and of its answer are the times at which the server has written them.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from predicting import IN_PROCESS, Call, Speed, champion, different_texts, in_process, measure, speed_table
from results import machine, publish, today, versions

from potstill.compute.processes import usable_cores
from potstill.inference.runtime import Student
from tests.redis_server import RedisServer, redis_server

MARK = "<!-- predicting-stream -->"
# Answers after which the rate is measured: until then the model is loaded.
WARM = 256
# Records and records/s of the measurement of delays.
PACED = 500
PACE = 20.0


@contextmanager
def answering(server: RedisServer) -> Iterator[psutil.Popen]:
    """Answer the stream `reviews` in a process."""
    addresses = ("--from", f"{server.url}/reviews", "--to", f"{server.url}/answers", "--text", "text")
    process = psutil.Popen([sys.executable, "-P", "-m", "flows.cli", "predict", *addresses], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait():
            raise RuntimeError(f"potstill predict ended with {process.returncode}")


def wait_for(server: RedisServer, answers: int, process: psutil.Popen) -> int:
    """Wait until so many records are answered; return their number."""
    while (count := int(server.client.xlen("answers"))) < answers:
        if process.poll() is not None:
            raise RuntimeError("potstill predict has ended")
        time.sleep(0.01)
    return count


def add(server: RedisServer, texts: Sequence[str]) -> None:
    """Write a record for each text."""
    pipeline = server.client.pipeline(transaction=False)
    for number, text in enumerate(texts):
        pipeline.xadd("reviews", {"id": number, "text": text})
    pipeline.execute()


def answer_waiting(server: RedisServer, texts: Sequence[str]) -> tuple[float, float]:
    """Answer texts that wait in the stream; return the seconds and the cores' seconds for all, without the start."""
    server.client.flushall()
    add(server, texts)
    with answering(server) as process:
        before = wait_for(server, WARM, process)
        start = time.perf_counter()
        used = sum(process.cpu_times()[:2])
        share = (wait_for(server, len(texts), process) - before) / len(texts)
        return (time.perf_counter() - start) / share, (sum(process.cpu_times()[:2]) - used) / share


def delays(server: RedisServer, texts: Sequence[str]) -> list[float]:
    """Write records at a pace; return the milliseconds from each to its answer."""
    server.client.flushall()
    add(server, texts[:1])
    generator = random.Random(2)
    with answering(server) as process:
        wait_for(server, 1, process)
        for text in texts[1:]:
            time.sleep(generator.expovariate(PACE))
            server.client.xadd("reviews", {"text": text})
        wait_for(server, len(texts), process)
    entries: Any = server.client.xrange("answers")
    return [_milliseconds(answer) - _milliseconds(fields[b"model_record"]) for answer, fields in entries[1:]]


def _milliseconds(record: bytes) -> float:
    return float(record.partition(b"-")[0])


def section(speeds: dict[str, list[Speed]], texts: int, milliseconds: Sequence[float]) -> str:
    """Return the table in Markdown, and a sentence on the delays."""
    p50, p99 = np.quantile(milliseconds, (0.5, 0.99))
    lines = [
        f"{machine()}, of which {usable_cores()} used, {today()}, load {os.getloadavg()[0]:.1f}; "
        f"{versions('onnxruntime', 'redis')}; {len(speeds[IN_PROCESS])} alternating rounds of {texts:,} different "
        "texts.",
        "",
        *speed_table(speeds),
        "",
        f"At {PACE:.0f} records/s, one by one at random times, an answer came {p50:.0f} ms after its record in the "
        f"median, {p99:.0f} ms at the 99th percentile ({len(milliseconds):,} records).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=8192)
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    from potstill import environment

    environment.prepare()
    _, model = champion()
    texts = different_texts(arguments.texts)
    student = Student(model.serving)
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as server:
        calls: dict[str, Call] = {
            IN_PROCESS: partial(in_process, student, texts),
            "`potstill predict`, stream to stream": partial(answer_waiting, server, texts),
        }
        speeds = measure(calls, arguments.rounds, len(texts))
        milliseconds = delays(server, texts[: PACED + 1])
    result = section(speeds, len(texts), milliseconds)
    publish(MARK, result, write=arguments.write)


if __name__ == "__main__":
    main()
