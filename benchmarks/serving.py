"""Compares the built Bento with other BentoML services: `transformers.pipeline`, and BentoML's adaptive batching.

Run in a workspace after `potstill run`: `python benchmarks/serving.py [--rounds 5] [--seconds 5] [--write]`. All
servers are up and take turns under the same load, which comes from a process of its own (serving_load.py). A ratio is
taken within each turn, so that other load affects both sides of it. Other measurements are `--growth N` (the slope of
the memory over N requests), `--shadow` (what a shadowed challenger costs the champion) and `--environment` (the size of
the Bento's packages on disk). `--write` puts the result into its section of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import statistics
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from potstill import environment

environment.prepare()

from results import machine, publish, spread, today, versions  # noqa: E402
from serving_turns import (  # noqa: E402
    HERE,
    LOADS,
    Server,
    Turn,
    in_process,
    load_generator,
    running_server,
    under_load,
)

from flows.commands.serve_champion import champion_bento  # noqa: E402
from potstill.config.params_file import load_params  # noqa: E402
from potstill.evaluation.gold import read_texts  # noqa: E402
from potstill.inference.runtime import Student  # noqa: E402
from potstill.paths import SERVING, TEST_SPLIT  # noqa: E402
from potstill.serving.launch import serve_command  # noqa: E402

MARK = "<!-- serving -->"
GROWTH_MARK = "<!-- serving memory -->"
SHADOW_MARK = "<!-- serving shadow -->"
ENVIRONMENT_MARK = "<!-- serving environment -->"
POTSTILL = "Potstill, `bentoml serve`"
TRACED = "Potstill with all of BentoML's middleware"
BATCHED = "student INT8 with BentoML's adaptive batching"
TEACHER = "teacher in transformers.pipeline"
STUDENT = "student in transformers.pipeline"
IN_PROCESS = "in process, no server"


def measure(
    tag: str, rounds: int, seconds: float, *, peers: bool
) -> tuple[dict[str, dict[str, list[Turn]]], dict[str, list[str]], str]:
    """Measure all servers under all loads.

    Returns:
        Load -> name -> turns; name -> seconds until ready, and resident and proportional MB after the loads; and a
        sentence on answers with adaptive batching.
    """
    texts, _ = read_texts(TEST_SPLIT)
    single_texts = [text for text in texts if isinstance(text, str)]
    student = Student(SERVING)
    turns: dict[str, dict[str, list[Turn]]] = {load: {} for load in LOADS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        commands = _commands(tag, folder, peers=peers)
        servers = {name: stack.enter_context(running_server(*command)) for name, command in commands.items()}
        source = stack.enter_context(load_generator())
        for _ in range(rounds):
            for load, kind in LOADS.items():
                latest = {IN_PROCESS: in_process(student, texts, kind, seconds)}
                for name, server in servers.items():
                    latest[name] = under_load(source, server, single_texts, kind, seconds)
                for name, turn in latest.items():
                    print(f"{load}: {name}: {turn.texts:,.0f} texts/s", file=sys.stderr, flush=True)
                    turns[load].setdefault(name, []).append(turn)
        footprints = {
            name: [f"{server.ready_seconds:.1f}", *(f"{value:.0f}" for value in server.memory())]
            for name, server in servers.items()
        }
        batching_note = batch_dependence(servers[BATCHED], single_texts) if peers else ""
    return turns, footprints, batching_note


def _commands(tag: str, folder: Path, *, peers: bool) -> dict[str, tuple[list[str], str, Path, dict[str, str]]]:
    """Return name -> command, path of the endpoint, log, variables."""
    workspace = Path.cwd()
    command = serve_command(tag, "", 0)[:-4]
    name = tag.partition(":")[0]
    # An exporter that keeps spans in memory: with traces configured, requests pass BentoML's middleware.
    traced = {"BENTOML_CONFIG_OPTIONS": f'services."{name}".tracing.exporter_type=in_memory'}
    commands = {
        POTSTILL: (command, "/v1/classify", folder / "potstill.txt", {}),
        TRACED: (command, "/v1/classify", folder / "traced.txt", traced),
    }
    if peers:
        for name, service, model in (
            (BATCHED, "serving_batchable:Batchable", "data/serving"),
            (TEACHER, "serving_peer:Peer", "data/teacher"),
            (STUDENT, "serving_peer:Peer", "data/student"),
        ):
            peer = [sys.executable, "-m", "bentoml", "serve", service, "--working-dir", str(HERE)]
            variables = {"PEER_MODEL": str(workspace / model)}
            commands[name] = (peer, "/classify", folder / f"{service}-{model.split('/')[1]}.txt", variables)
    return commands


def tables(turns: dict[str, dict[str, list[Turn]]], footprints: dict[str, list[str]]) -> list[str]:
    """Return Markdown tables: medians, and Potstill's ratios to the others with their range over the rounds."""
    lines: list[str] = []
    for load, servers in turns.items():
        lines += [
            f"| {load} | texts/s | p50 ms | p99 ms | cores' ms a text | Potstill's texts/s (min–max) |",
            "|---|---|---|---|---|---|",
        ]
        for name, rounds in servers.items():
            rate, p50, p99, cpu = (
                statistics.median(getattr(turn, field) for turn in rounds) for field in ("texts", "p50", "p99", "cpu")
            )
            ratios = [mine.texts / other.texts for mine, other in zip(servers[POTSTILL], rounds, strict=True)]
            lines.append(f"| {name} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {cpu:.2f} | {spread(ratios, 2)} |")
        lines.append("")
    lines += ["| | s until ready | MB resident | MB proportional |", "|---|---|---|---|"]
    return lines + [f"| {name} | {' | '.join(values)} |" for name, values in footprints.items()]


def growth(tag: str, requests: int) -> str:
    """Measure the slope of the memory over many requests: a straight line through readings 10 s apart."""
    texts, _ = read_texts(TEST_SPLIT)
    single_texts = [text for text in texts if isinstance(text, str)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(running_server(*_commands(tag, folder, peers=False)[POTSTILL]))
        source = stack.enter_context(load_generator())
        points: list[tuple[float, float]] = []
        sent = 0.0
        while sent < requests:
            turn = under_load(source, server, single_texts, (32, 1), 10.0)
            sent += turn.texts * 10.0
            points.append((sent, server.memory()[0]))
    # The first fifth is left out: loading at first use is no growth.
    later = points[len(points) // 5 :]
    slope = statistics.linear_regression(*zip(*later, strict=True)).slope if len(later) > 2 else float("nan")
    first, before = points[0]
    after = points[-1][1]
    return (
        f"{sent:,.0f} requests: {before:.0f} MB resident after the first {first:,.0f}, {after:.0f} MB at the end; "
        f"slope {slope * 1e5:+.2f} MB for each 100,000 requests."
    )


def batch_dependence(server: Server, texts: list[str]) -> str:
    """Compare answers to lists of 32 texts with answers to each text alone."""

    def ask(batch: list[str]) -> list[dict[str, Any]]:
        body = json.dumps({"texts": batch}).encode()
        request = urllib.request.Request(server.address, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answers: list[dict[str, Any]] = json.load(response)
            return answers

    sample = texts[: 4 * 32]
    batched = [answer for first in range(0, len(sample), 32) for answer in ask(sample[first : first + 32])]
    pairs = list(zip(batched, (ask([text])[0] for text in sample), strict=True))
    shifts = [abs(listed["score"] - alone["score"]) for listed, alone in pairs if listed["label"] == alone["label"]]
    return (
        f"With adaptive batching an INT8 answer depends on the texts it is computed with: of {len(pairs)} texts, "
        f"asked in lists of 32 and alone, {len(pairs) - len(shifts)} have another label and the others' score moves by "
        f"up to {max(shifts):.3f}. Potstill's does not."
    )


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tag", help="a Bento of this workspace; the champion's by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load on each server in a round")
    parser.add_argument("--without-peers", action="store_true", help="only Potstill's service and the bare model")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--growth", type=int, metavar="N", help="measure the memory over N requests instead")
    other.add_argument("--shadow", action="store_true", help="measure what a shadowed challenger costs instead")
    other.add_argument("--environment", action="store_true", help="measure the Bento's packages on disk instead")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    # An exit that runs the context managers, so that a terminated benchmark stops its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    mark, lines = _section(arguments)
    section = "\n".join(lines)
    publish(mark, section, write=arguments.write)


def _section(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """Measure what was asked for; returns the section's mark and its lines."""
    terms = f"{arguments.rounds} alternating rounds of {arguments.seconds:g} s."
    if arguments.shadow:
        return SHADOW_MARK, [f"{_machine()}; {terms}", "", *_shadow(arguments.rounds, arguments.seconds)]
    if arguments.environment:
        from serving_environment import environment_size

        head = f"{today()}; Python {platform.python_version()}, {platform.machine()}."
        return ENVIRONMENT_MARK, [head, "", *environment_size(_tag(arguments.tag))]
    if arguments.growth:
        return GROWTH_MARK, [f"{_machine()}.", "", growth(_tag(arguments.tag), arguments.growth)]
    return MARK, [f"{_machine()}; {terms}", "", *_compare_peers(_tag(arguments.tag), arguments)]


def _machine() -> str:
    packages = versions("bentoml", "uvicorn", "uvloop", "onnxruntime", "transformers")
    return f"{machine()} shared with the load, {today()}; {packages}"


def _tag(tag: str | None) -> str:
    return tag or champion_bento(Path.cwd(), load_params(Path("params.yaml")))[1]


def _compare_peers(tag: str, arguments: argparse.Namespace) -> list[str]:
    turns, footprints, batching_note = measure(
        tag, arguments.rounds, arguments.seconds, peers=not arguments.without_peers
    )
    return [*tables(turns, footprints), *(["", batching_note] if batching_note else [])]


def _shadow(rounds: int, seconds: float) -> list[str]:
    import serving_shadow

    measured = serving_shadow.tables(*serving_shadow.measure(rounds, seconds))
    return [*measured, "", *serving_shadow.guard(rounds, seconds)]


if __name__ == "__main__":
    main()
