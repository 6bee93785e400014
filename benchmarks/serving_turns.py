"""Shared by the benchmarks of serving: a running server, and one turn of load on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from potstill.compute.processes import free_port, start, stop
from potstill.inference.runtime import Student, Text
from tasks.smoke import is_ready

HERE = Path(__file__).resolve().parent
# Name -> (callers at once, texts of a request).
LOADS = {"32 callers, one text": (32, 1), "4 callers, 32 texts": (4, 32), "one caller, one text": (1, 1)}


@dataclass(frozen=True)
class Server:
    """A running server: the URL where it classifies, its process, and how long it took to be ready."""

    address: str
    process: subprocess.Popen[bytes]
    ready_seconds: float

    def tree(self) -> list[psutil.Process]:
        """Return its process and all descendants."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its processes so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.tree())

    def memory(self) -> tuple[float, float]:
        """Return (resident, proportional) MB of all its processes; the second counts shared pages once."""
        infos = [process.memory_full_info() for process in self.tree()]
        return sum(info.rss for info in infos) / 1e6, sum(info.pss for info in infos) / 1e6


@dataclass(frozen=True)
class Turn:
    """The result of one load on one server: texts/s, ms of a request (p50, p99), and CPU milliseconds for a text."""

    texts: float
    p50: float
    p99: float
    cpu: float


@contextmanager
def running_server(command: list[str], path: str, log: Path, variables: Mapping[str, str]) -> Iterator[Server]:
    """Yield a server that is ready, and stop it at the end."""
    port = free_port()
    begin = time.monotonic()
    with log.open("wb") as output:
        process = start(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            environment={**os.environ, **variables}, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            while not is_ready(f"http://127.0.0.1:{port}"):
                if process.poll() is not None or time.monotonic() - begin > 120:
                    sys.exit(f"{command} is not ready:\n{log.read_text()}")
                time.sleep(0.02)
            yield Server(f"http://127.0.0.1:{port}{path}", process, time.monotonic() - begin)
        finally:
            stop(process)


@contextmanager
def load_generator() -> Iterator[subprocess.Popen[str]]:
    """Yield the process that generates the loads."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "serving_load.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def under_load(
    source: subprocess.Popen[str], server: Server, texts: list[str], kind: tuple[int, int], seconds: float
) -> Turn:
    """Run one turn. A refused request ends the benchmark, since only answers are measured."""
    callers, per_request = kind
    request = {
        "address": server.address,
        "texts": texts,
        "callers": callers,
        "per_request": per_request,
        "seconds": seconds,
    }
    before = server.cpu_seconds()
    assert source.stdin is not None
    assert source.stdout is not None
    print(json.dumps(request), file=source.stdin, flush=True)
    result: dict[str, Any] = json.loads(source.stdout.readline())
    cpu_seconds = server.cpu_seconds() - before
    times = result["seconds"]
    if result["refused"] or not times:
        sys.exit(f"{server.address} refused: {result['refused']}")
    answered = len(times) * per_request
    return Turn(
        answered / result["duration"],
        times[len(times) // 2] * 1000,
        times[int(len(times) * 0.99)] * 1000,
        # `cpu_seconds` includes the warm-up before the counted load.
        cpu_seconds * 1000 / (answered * (1 + min(1.0, seconds / 4) / result["duration"])),
    )


def in_process(student: Student, texts: list[Text], kind: tuple[int, int], seconds: float) -> Turn:
    """Run the same texts without a server: one caller with lists of 32, or with single texts for the single caller."""
    size = 1 if kind == (1, 1) else 32
    times: list[float] = []
    begin = time.perf_counter()
    before = sum(os.times()[:2])
    while time.perf_counter() - begin < seconds:
        first = len(times) * size % len(texts)
        start_time = time.perf_counter()
        student.predict(texts[first : first + size])
        times.append(time.perf_counter() - start_time)
    duration = time.perf_counter() - begin
    cpu_seconds = sum(os.times()[:2]) - before
    answered = len(times) * size
    times.sort()
    p50 = times[len(times) // 2] * 1000
    p99 = times[int(len(times) * 0.99)] * 1000
    return Turn(answered / duration, p50, p99, cpu_seconds * 1000 / answered)
