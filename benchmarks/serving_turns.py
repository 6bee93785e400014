"""A server that is up, and one turn of load on it: what the benchmarks of serving share."""

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
# Callers at once, texts of a request.
LOADS = {"32 callers, one text": (32, 1), "4 callers, 32 texts": (4, 32), "one caller, one text": (1, 1)}


@dataclass(frozen=True)
class Server:
    """A server that is up: where it classifies, its process, and how long it took to be ready."""

    address: str
    process: subprocess.Popen[bytes]
    ready_seconds: float

    def tree(self) -> list[psutil.Process]:
        """Its processes."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """What it has computed so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.tree())

    def memory(self) -> tuple[float, float]:
        """(resident, proportional) MB of all its processes; shared pages count in the second once."""
        found = [process.memory_full_info() for process in self.tree()]
        return sum(one.rss for one in found) / 1e6, sum(one.pss for one in found) / 1e6


@dataclass(frozen=True)
class Turn:
    """One load on one server: texts/s, ms of a request, and milliseconds of the server's cores for a text."""

    texts: float
    p50: float
    p99: float
    cpu: float


@contextmanager
def up(command: list[str], path: str, log: Path, variables: Mapping[str, str]) -> Iterator[Server]:
    """A server that is ready, and is stopped at the end."""
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
def generator() -> Iterator[subprocess.Popen[str]]:
    """The process that loads come from."""
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
    """One turn. Refused requests end the benchmark: what is measured is answers."""
    callers, per_request = kind
    wish = {
        "address": server.address,
        "texts": texts,
        "callers": callers,
        "per_request": per_request,
        "seconds": seconds,
    }
    before = server.cpu_seconds()
    assert source.stdin is not None
    assert source.stdout is not None
    print(json.dumps(wish), file=source.stdin, flush=True)
    found: dict[str, Any] = json.loads(source.stdout.readline())
    spent, times = server.cpu_seconds() - before, found["seconds"]
    if found["refused"] or not times:
        sys.exit(f"{server.address} refused: {found['refused']}")
    answered = len(times) * per_request
    return Turn(
        answered / found["lasted"],
        times[len(times) // 2] * 1000,
        times[int(len(times) * 0.99)] * 1000,
        # The load before the counted one is in `spent` too.
        spent * 1000 / (answered * (1 + min(1.0, seconds / 4) / found["lasted"])),
    )


def in_process(student: Student, texts: list[Text], kind: tuple[int, int], seconds: float) -> Turn:
    """The same texts with no server: one caller that asks about 32 or, alone, about one."""
    size = 1 if kind == (1, 1) else 32
    times: list[float] = []
    begin = time.perf_counter()
    before = sum(os.times()[:2])
    while time.perf_counter() - begin < seconds:
        first = len(times) * size % len(texts)
        at = time.perf_counter()
        student.predict(texts[first : first + size])
        times.append(time.perf_counter() - at)
    lasted, spent = time.perf_counter() - begin, sum(os.times()[:2]) - before
    answered = len(times) * size
    times.sort()
    middle, late = times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000
    return Turn(answered / lasted, middle, late, spent * 1000 / answered)
