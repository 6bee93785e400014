"""The built Bento beside teacher and student in `transformers.pipeline` behind BentoML, and beside BentoML's adaptive
batching: ratios with spread.

Run in a workspace after `potstill run`: `python benchmarks/serving.py [--rounds 5] [--seconds 5] [--write]`. All
servers are up and take turns under the same load, which comes from a process of its own (serving_load.py); a ratio is
taken within each turn, so another load hits both sides of it. `--growth N` measures instead the slope of the memory
over N requests, `--shadow` what a challenger that rides along costs the champion, `--environment` what the Bento's
packages take on disk. `--write` puts what was measured into its section of benchmarks/RESULTS.md.
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

from results import machine, replace_section, spread, today, versions  # noqa: E402
from serving_turns import HERE, LOADS, Server, Turn, generator, in_process, under_load, up  # noqa: E402

from flows.commands.serve_champion import champion  # noqa: E402
from potstill.config.params_file import load_params  # noqa: E402
from potstill.evaluation.texts import read_texts  # noqa: E402
from potstill.inference.runtime import Student  # noqa: E402
from potstill.serving.launch import serve_command  # noqa: E402

MARK, GROWTH_MARK = "<!-- serving -->", "<!-- serving memory -->"
SHADOW_MARK, ENVIRONMENT_MARK = "<!-- serving shadow -->", "<!-- serving environment -->"
OURS = "Potstill, `bentoml serve`"
TRACED = "Potstill behind all of BentoML's middleware"
BATCHED = "student INT8 behind BentoML's adaptive batching"
TEACHER = "teacher in transformers.pipeline"
STUDENT = "student in transformers.pipeline"
LIMIT = "in process, no server"


def measure(
    tag: str, rounds: int, seconds: float, *, peers: bool
) -> tuple[dict[str, dict[str, list[Turn]]], dict[str, list[str]], str]:
    """Load -> name -> turns; name -> seconds until ready, resident and proportional MB after the loads; and what there
    is to say of answers behind adaptive batching.
    """
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
        moved = by_neighbours(servers[BATCHED], asked) if peers else ""
    return found, about, moved


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
        for name, service, model in (
            (BATCHED, "serving_batchable:Batchable", "data/serving"),
            (TEACHER, "serving_peer:Peer", "data/teacher"),
            (STUDENT, "serving_peer:Peer", "data/student"),
        ):
            peer = [sys.executable, "-m", "bentoml", "serve", service, "--working-dir", str(HERE)]
            variables = {"PEER_MODEL": str(workspace / model)}
            found[name] = (peer, "/classify", folder / f"{service}-{model.split('/')[1]}.txt", variables)
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
    """The slope of the memory over many requests: a straight line through readings 10 s apart."""
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


def by_neighbours(server: Server, texts: list[str]) -> str:
    """How answers move with the texts they are asked with: lists of 32, beside each text alone."""

    def ask(some: list[str]) -> list[dict[str, Any]]:
        body = json.dumps({"texts": some}).encode()
        request = urllib.request.Request(server.address, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found

    some = texts[: 4 * 32]
    together = [answer for first in range(0, len(some), 32) for answer in ask(some[first : first + 32])]
    pairs = list(zip(together, (ask([text])[0] for text in some), strict=True))
    same = [abs(one["score"] - other["score"]) for one, other in pairs if one["label"] == other["label"]]
    return (
        f"Behind adaptive batching an INT8 answer depends on the texts it is computed with: of {len(pairs)} texts, "
        f"asked in lists of 32 and alone, {len(pairs) - len(same)} have another label and the others' score moves by "
        f"up to {max(same):.3f}. Potstill's does not."
    )


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tag", help="a Bento of this workspace; the champion's by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load on each server in a round")
    parser.add_argument("--without-peers", action="store_true", help="only our own service and the limit")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--growth", type=int, metavar="N", help="measure the memory over N requests instead")
    other.add_argument("--shadow", action="store_true", help="measure what a challenger that rides along costs instead")
    other.add_argument("--environment", action="store_true", help="measure the Bento's packages on disk instead")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    # Else who ends the benchmark leaves its servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    terms = f"{arguments.rounds} alternating rounds of {arguments.seconds:g} s."
    if arguments.shadow:
        mark, lines = SHADOW_MARK, [f"{_machine()}; {terms}", "", *_shadow(arguments.rounds, arguments.seconds)]
    elif arguments.environment:
        from serving_environment import environment_size

        mark, lines = (
            ENVIRONMENT_MARK,
            [
                f"{today()}; Python {platform.python_version()}, {platform.machine()}.",
                "",
                *environment_size(_tag(arguments.tag)),
            ],
        )
    elif arguments.growth:
        mark, lines = GROWTH_MARK, [f"{_machine()}.", "", growth(_tag(arguments.tag), arguments.growth)]
    else:
        mark, lines = MARK, [f"{_machine()}; {terms}", "", *_beside_peers(_tag(arguments.tag), arguments)]
    section = "\n".join(lines)
    print(section)
    if arguments.write:
        replace_section(mark, section)


def _machine() -> str:
    packages = versions("bentoml", "uvicorn", "uvloop", "onnxruntime", "transformers")
    return f"{machine()} shared with the load, {today()}; {packages}"


def _tag(given: str | None) -> str:
    return given or champion(Path.cwd(), load_params(Path("params.yaml")))[1]


def _beside_peers(tag: str, arguments: argparse.Namespace) -> list[str]:
    found, about, moved = measure(tag, arguments.rounds, arguments.seconds, peers=not arguments.without_peers)
    lines = tables(found, about)
    if moved:
        lines += ["", moved]
    return lines


def _shadow(rounds: int, seconds: float) -> list[str]:
    import serving_shadow

    measured = serving_shadow.tables(*serving_shadow.measure(rounds, seconds))
    return [*measured, "", *serving_shadow.guard(rounds, seconds)]


if __name__ == "__main__":
    main()
