"""The built Bento beside teacher and student in `transformers.pipeline` behind BentoML: ratios with spread.

Run in a workspace after `potstill run`: `python benchmarks/serving.py [--rounds 5] [--seconds 5] [--write]`. All
servers are up and take turns under the same load, which comes from a process of its own (serving_load.py); a ratio is
taken within each turn, so another load hits both sides of it. `--growth N` sends N requests and shows the slope of
the memory. `--write` puts the tables into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill import environment

environment.prepare()

import psutil  # noqa: E402
from results import machine, replace_section, spread, today, versions  # noqa: E402

from flows.serving import champion_tag  # noqa: E402
from potstill.config import load_params  # noqa: E402
from potstill.evaluation.texts import read_texts  # noqa: E402
from potstill.processes import free_port, start, stop  # noqa: E402
from potstill.serving.launch import serve_command  # noqa: E402
from potstill.serving.runtime import Student, Text  # noqa: E402
from tasks.smoke import is_ready  # noqa: E402

MARK = "<!-- serving -->"
HERE = Path(__file__).resolve().parent
OURS = "Potstill, `bentoml serve`"
TRACED = "Potstill behind all of BentoML's middleware"
TEACHER = "teacher in transformers.pipeline"
STUDENT = "student in transformers.pipeline"
LIMIT = "in process, no server"
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


def measure(
    tag: str, rounds: int, seconds: float, *, peers: bool
) -> tuple[dict[str, dict[str, list[Turn]]], dict[str, list[str]]]:
    """Load -> name -> turns; and name -> seconds until ready, resident and proportional MB after the loads."""
    texts, _ = read_texts(Path("data/prepared/test.parquet"))
    asked = [text for text in texts if isinstance(text, str)]
    student = Student(Path("data/serving"))
    found: dict[str, dict[str, list[Turn]]] = {load: {} for load in LOADS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {name: stack.enter_context(up(*what)) for name, what in _servers(tag, folder, peers=peers).items()}
        source = stack.enter_context(generator())
        for _ in range(rounds):
            for load, kind in LOADS.items():
                turns = {LIMIT: in_process(student, texts, kind, seconds)}
                for name, server in servers.items():
                    turns[name] = under_load(source, server, asked, kind, seconds)
                for name, turn in turns.items():
                    print(f"{load}: {name}: {turn.texts:,.0f} texts/s", file=sys.stderr, flush=True)
                    found[load].setdefault(name, []).append(turn)
        about = {
            name: [f"{server.ready_seconds:.1f}", *(f"{value:.0f}" for value in server.memory())]
            for name, server in servers.items()
        }
    return found, about


def _servers(tag: str, folder: Path, *, peers: bool) -> dict[str, tuple[list[str], str, Path, dict[str, str]]]:
    """Name -> command, path, log, variables."""
    workspace = Path.cwd()
    ours = serve_command(tag, "", 0)[:-4]
    name = tag.partition(":")[0]
    # An exporter that keeps spans in memory: with traces configured, requests pass BentoML's middleware.
    traced = {"BENTOML_CONFIG_OPTIONS": f'services."{name}".tracing.exporter_type=in_memory'}
    found = {
        OURS: (ours, "/v1/classify", folder / "ours.txt", {}),
        TRACED: (ours, "/v1/classify", folder / "traced.txt", traced),
    }
    if peers:
        peer = [sys.executable, "-m", "bentoml", "serve", "serving_peer:Peer", "--working-dir", str(HERE)]
        for name, model in ((TEACHER, "data/teacher"), (STUDENT, "data/student")):
            variables = {"PEER_MODEL": str(workspace / model)}
            found[name] = (peer, "/classify", folder / f"{model.split('/')[1]}.txt", variables)
    return found


def tables(found: dict[str, dict[str, list[Turn]]], about: dict[str, list[str]]) -> list[str]:
    """Markdown: medians; ours as ratios to the others, with their range over the rounds."""
    lines: list[str] = []
    for load, servers in found.items():
        lines += [
            f"| {load} | texts/s | p50 ms | p99 ms | cores' ms a text | Potstill's texts/s (min–max) |",
            "|---|---|---|---|---|---|",
        ]
        for name, turns in servers.items():
            columns = [
                statistics.median(getattr(turn, field) for turn in turns) for field in ("texts", "p50", "p99", "cpu")
            ]
            faster = [mine.texts / theirs.texts for mine, theirs in zip(servers[OURS], turns, strict=True)]
            rate, p50, p99, cpu = columns
            lines.append(f"| {name} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {cpu:.2f} | {spread(faster, 2)} |")
        lines.append("")
    lines += ["| | s until ready | MB resident | MB proportional |", "|---|---|---|---|"]
    return lines + [f"| {name} | {' | '.join(values)} |" for name, values in about.items()]


def growth(tag: str, requests: int) -> str:
    """The slope of the memory over many requests of one to three texts, from a straight line through 20 readings."""
    texts, _ = read_texts(Path("data/prepared/test.parquet"))
    asked = [text for text in texts if isinstance(text, str)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(up(*_servers(tag, folder, peers=False)[OURS]))
        source = stack.enter_context(generator())
        points: list[tuple[float, float]] = []
        sent = 0.0
        while sent < requests:
            turn = under_load(source, server, asked, (32, 1), 10.0)
            sent += turn.texts * 10.0
            points.append((sent, server.memory()[0]))
    # What is loaded at first use is no growth.
    later = points[len(points) // 5 :]
    slope = statistics.linear_regression(*zip(*later, strict=True)).slope if len(later) > 2 else float("nan")
    (first, before), (_, after) = points[0], points[-1]
    return (
        f"{sent:,.0f} requests: {before:.0f} MB resident after the first {first:,.0f}, {after:.0f} MB at the end; "
        f"slope {slope * 1e5:+.2f} MB for each 100,000 requests."
    )


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tag", help="a Bento of this workspace; the champion's by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load on each server in a round")
    parser.add_argument("--without-peers", action="store_true", help="only our own service and the limit")
    parser.add_argument(
        "--growth", type=int, default=0, metavar="N", help="send N more requests, show the memory's slope"
    )
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    # Else who ends the benchmark leaves its servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tag = arguments.tag or champion_tag(Path.cwd(), load_params(Path("params.yaml")))
    found, about = measure(tag, arguments.rounds, arguments.seconds, peers=not arguments.without_peers)
    packages = versions("bentoml", "uvicorn", "uvloop", "onnxruntime", "transformers")
    head = (
        f"{machine()} shared with the load, {today()}; {packages}; "
        f"{arguments.rounds} alternating rounds of {arguments.seconds:g} s."
    )
    lines = [head, "", *tables(found, about)]
    if arguments.growth:
        lines += ["", growth(tag, arguments.growth)]
    section = "\n".join(lines)
    print(section)
    if arguments.write:
        replace_section(MARK, section)


if __name__ == "__main__":
    main()
