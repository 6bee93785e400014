"""The cost of a shadowed challenger for the champion, and whether the guard drops one that costs too much.

`python benchmarks/serving.py --shadow` measures it. A Bento fixes the share of requests that its challenger answers
too, so the workspace's candidate is packaged once for each share, in a store that is deleted with the benchmark.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from results import spread
from serving_turns import LOADS, Server, Turn, load_generator, running_server, under_load

from potstill.artifacts import write_manifest
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.evaluation.gold import read_texts
from potstill.paths import SERVING, TEST_SPLIT
from potstill.serving.launch import SHADOW_FOLDER, serve_command
from tasks.package import package

ALONE = "alone"
# A second server without a challenger, to see the noise.
AGAIN = "alone, once more"
WITH_CHALLENGER = "with a challenger"
DROPPED = "after it was dropped"
SHARES = (0.1, 1.0)
# A limit that nothing reaches, so that the challenger stays for the whole measurement.
UNGUARDED = 1e6
# Floats of the table that the hungry challenger reads.
TABLE = 64 * 1024 * 1024
# A smaller slowdown is noise.
MIN_SLOWDOWN = 1.02
# How long to wait for the guard to drop a challenger.
GUARD_SECONDS = 60.0


@dataclass(frozen=True)
class ShadowState:
    """A challenger's state by `/metrics`: whether it runs, texts it answered, the guard's slowdown (0: none yet)."""

    riding: bool
    texts: int
    slowdown: float


def shadow_state(server: Server) -> ShadowState:
    """Read a challenger's state from `/metrics`."""
    with urllib.request.urlopen(server.address.rpartition("/v1/")[0] + "/metrics", timeout=30) as response:
        text = response.read().decode()
    metrics = dict(re.findall(r"^potstill_shadow_(\w+)\{[^}]*\} (\S+)$", text, re.MULTILINE))
    return ShadowState(float(metrics["riding"]) == 1.0, int(float(metrics["texts_total"])), float(metrics["slowdown"]))


def measure(
    rounds: int, seconds: float
) -> tuple[dict[str, dict[str, list[Turn]]], dict[str, dict[str, list[int]]], dict[str, ShadowState]]:
    """Measure champions with and without a challenger, which is the champion's own model and so costs the same.

    Returns:
        Load -> server -> turns; load -> server -> texts that its challenger answered in each turn; server -> state of
        its challenger at the end.
    """
    params = load_params(Path("params.yaml"))
    texts = _texts()
    measured: dict[str, dict[str, list[Turn]]] = {load: {} for load in LOADS}
    answered: dict[str, dict[str, list[int]]] = {load: {} for load in LOADS}
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_store())
        challenger = shutil.copytree(SERVING, folder / "challenger")
        shares = {ALONE: 0.0, AGAIN: 0.0} | {f"asked {share:.0%}": share for share in SHARES}
        servers = {
            name: stack.enter_context(_served(params, share, UNGUARDED, challenger, folder))
            for name, share in shares.items()
        }
        source = stack.enter_context(load_generator())

        def challenger_texts(name: str) -> int:
            return shadow_state(servers[name]).texts if shares[name] else 0

        for number in range(rounds):
            for load, kind in LOADS.items():
                # The order rotates with the rounds.
                order = list(servers)[number % len(servers) :] + list(servers)[: number % len(servers)]
                for name in order:
                    before = challenger_texts(name)
                    turn = under_load(source, servers[name], texts, kind, seconds)
                    measured[load].setdefault(name, []).append(turn)
                    answered[load].setdefault(name, []).append(challenger_texts(name) - before)
                    print(f"{load}: {name}: {turn.texts:,.0f} texts/s", file=sys.stderr, flush=True)
                    _wait_until_idle(servers[name])
        states = {name: shadow_state(server) for name, server in servers.items() if shares[name]}
    return measured, answered, states


def guard(rounds: int, seconds: float) -> list[str]:
    """Return Markdown on a challenger that slows the champion: unguarded, then with half of its cost as the limit."""
    params = load_params(Path("params.yaml"))
    texts = _texts()
    turns: dict[str, list[Turn]] = {ALONE: [], WITH_CHALLENGER: [], DROPPED: []}
    with ExitStack() as stack:
        folder = stack.enter_context(temporary_store())
        challenger = hungry_challenger(folder / "challenger")
        source = stack.enter_context(load_generator())
        alone = stack.enter_context(_served(params, 0.0, UNGUARDED, challenger, folder))

        def alternate(name: str, server: Server) -> None:
            for label, target in ((ALONE, alone), (name, server)):
                turns[label].append(under_load(source, target, texts, (1, 1), seconds))
                _wait_until_idle(target)

        with _served(params, 1.0, UNGUARDED, challenger, folder) as unguarded:
            # At least until the guard has measured a slowdown.
            while len(turns[WITH_CHALLENGER]) < rounds or not shadow_state(unguarded).slowdown:
                alternate(WITH_CHALLENGER, unguarded)
            cost = shadow_state(unguarded).slowdown
        if cost < MIN_SLOWDOWN:
            return [f"The challenger that should slow the champion does not: the guard sees {cost:.2f}×."]
        limit = 1 + (cost - 1) / 2
        with _served(params, 1.0, limit, challenger, folder) as guarded:
            begin = time.monotonic()
            while shadow_state(guarded).riding and time.monotonic() - begin < GUARD_SECONDS:
                under_load(source, guarded, texts, (1, 1), 1.0)
            end = shadow_state(guarded)
            duration = time.monotonic() - begin
            if end.riding:
                return [f"Not dropped in {duration:.0f} s: the guard sees {end.slowdown:.2f}× (limit {limit:.2f}×)."]
            _wait_until_idle(guarded)
            for _ in range(rounds):
                alternate(DROPPED, guarded)
    return [
        f"A challenger that empties the cache all cores share ({TABLE * 4 / 1e6:.0f} MB for each text), asked 100%: "
        f"unguarded the guard sees {cost:.2f}×. With `watch.shadow_max_slowdown` {limit:.2f} it is dropped within "
        f"{duration:.0f} s of load, after {end.texts:,} texts, at {end.slowdown:.2f}×.",
        "",
        "| one caller, one text | texts/s | p50 ms | p99 ms |",
        "|---|---|---|---|",
        *(f"| {name} | {_median(part, 'texts'):,.0f} | {_median(part, 'p50'):.1f} | {_median(part, 'p99'):.1f} |"
          for name, part in turns.items()),
    ]  # fmt: skip


def hungry_challenger(folder: Path) -> Path:
    """Write a student that slows the champion in spite of its low priority.

    Before each answer it reads a table of 256 MB again and again, which empties the cache that all cores share and
    fills their connection to the memory.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shutil.copytree(SERVING, folder)
    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    constants = {
        "shape": np.array([TABLE]),
        "trips": np.array([8]),
        "go": np.array(True),
        "none": np.zeros(1, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, f"hungry_{name}") for name, value in constants.items())
    tables = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [TABLE]) for name in ("before", "after")]
    truths = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("so_far", "on")]
    body = helper.make_graph(
        [helper.make_node("Neg", ["before"], ["after"]), helper.make_node("Identity", ["so_far"], ["on"])],
        "body",
        [helper.make_tensor_value_info("trip", TensorProto.INT64, []), truths[0], tables[0]],
        [truths[1], tables[1]],
    )
    last = next(node for node in graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "own_logits"
    graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["hungry_shape"], ["hungry_start"]),
            helper.make_node("Loop", ["hungry_trips", "hungry_go", "hungry_start"], ["hungry_end"], body=body),
            helper.make_node("ReduceMax", ["hungry_end"], ["hungry_one"], keepdims=0),
            helper.make_node("Mul", ["hungry_one", "hungry_none"], ["hungry_zero"]),
            helper.make_node("Add", ["own_logits", "hungry_zero"], ["logits"]),
        ]
    )
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder)
    return folder


def tables(
    measured: dict[str, dict[str, list[Turn]]],
    answered: dict[str, dict[str, list[int]]],
    states: dict[str, ShadowState],
) -> list[str]:
    """Return Markdown: medians, and ratios to the champion alone, taken within rounds."""
    lines: list[str] = []
    for load, servers in measured.items():
        lines += [
            f"| {load} | texts/s | of alone (min–max) | p50 ms | p99 ms | of alone (min–max) | challenger's texts |",
            "|---|---|---|---|---|---|---|",
        ]
        alone = servers[ALONE]
        for name, turns in servers.items():
            rates = [turn.texts / base.texts for turn, base in zip(turns, alone, strict=True)]
            latencies = [turn.p99 / base.p99 for turn, base in zip(turns, alone, strict=True)]
            lines.append(
                f"| {name} | {_median(turns, 'texts'):,.0f} | {spread(rates, 2)} | {_median(turns, 'p50'):.1f} | "
                f"{_median(turns, 'p99'):.1f} | {spread(latencies, 2)} | "
                f"{statistics.median(answered[load][name]):,.0f} |"
            )
        lines.append("")
    summary = "; ".join(f"{name}: {state.slowdown:.2f}×, {state.texts:,} texts" for name, state in states.items())
    return [*lines, f"What the guard sees at the end, and texts the challenger answered in all: {summary}."]


@contextmanager
def temporary_store() -> Iterator[Path]:
    """Yield a folder with a BentoML store of its own for the block."""
    before = os.environ.get("BENTOML_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENTOML_HOME"] = str(Path(folder) / "bentoml")
        try:
            yield Path(folder)
        finally:
            os.environ.pop("BENTOML_HOME")
            if before is not None:
                os.environ["BENTOML_HOME"] = before


@contextmanager
def _served(params: Params, share: float, limit: float, challenger: Path, folder: Path) -> Iterator[Server]:
    watch = params.watch.model_copy(update={"shadow": share, "shadow_max_slowdown": limit})
    tag = package(params.model_copy(update={"watch": watch}), Path.cwd()).tag
    log = folder / f"{time.monotonic_ns()}.txt"
    variables = {SHADOW_FOLDER: str(challenger)}
    with running_server(serve_command(tag, "", 0)[:-4], "/v1/classify", log, variables) as server:
        yield server


def _texts() -> list[str]:
    return [text for text in read_texts(TEST_SPLIT)[0] if isinstance(text, str)]


def _wait_until_idle(server: Server) -> None:
    """Wait until the server computes nothing: a challenger works off its queue after the load has ended."""
    spent = server.cpu_seconds()
    while True:
        time.sleep(0.5)
        spent, before = server.cpu_seconds(), spent
        if spent - before < 0.02:
            return


def _median(turns: list[Turn], field: str) -> float:
    return float(statistics.median(getattr(turn, field) for turn in turns))
