"""What a challenger that rides along costs the champion, and whether the guard drops one that costs too much.

`python benchmarks/serving.py --shadow` measures it. The share of requests that a challenger answers too is fixed in a
Bento, so the workspace's candidate is packaged once for each, in a store that goes away with the benchmark.
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
from serving_turns import LOADS, Server, Turn, generator, under_load, up

from potstill.artifacts import write_manifest
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.evaluation.texts import read_texts
from potstill.serving.launch import SHADOW_FOLDER, serve_command
from tasks.package import package

ALONE = "alone"
# A second server without a challenger: how far noise alone goes.
AGAIN = "alone, once more"
SHARES = (0.1, 1.0)
# A limit that nothing crosses: what is measured is a challenger that rides all the while.
UNGUARDED = 1e6
# Floats of the table that the hungry challenger goes through.
TABLE = 64 * 1024 * 1024
# The guard's own part: a smaller slowdown is noise; and how long a challenger may ride before this is given up.
FELT, GUARD_SECONDS = 1.02, 60.0


@dataclass(frozen=True)
class Ride:
    """What the service says of a challenger: whether it rides, texts it answered, the guard's figure (0: none yet)."""

    riding: bool
    texts: int
    slowdown: float


def ride(server: Server) -> Ride:
    """Ask `/metrics`."""
    with urllib.request.urlopen(server.address.rpartition("/v1/")[0] + "/metrics", timeout=30) as answer:
        found = dict(re.findall(r"^potstill_shadow_(\w+)\{[^}]*\} (\S+)$", answer.read().decode(), re.MULTILINE))
    return Ride(float(found["riding"]) == 1.0, int(float(found["texts_total"])), float(found["slowdown"]))


def measure(
    rounds: int, seconds: float
) -> tuple[dict[str, dict[str, list[Turn]]], dict[str, dict[str, list[int]]], dict[str, Ride]]:
    """Load -> server -> turns; load -> server -> texts its challenger answered in each; server -> its challenger at the
    end. The challenger is the champion's own model: one that costs what the champion does.
    """
    params, asked = load_params(Path("params.yaml")), _texts()
    found: dict[str, dict[str, list[Turn]]] = {load: {} for load in LOADS}
    answered: dict[str, dict[str, list[int]]] = {load: {} for load in LOADS}
    with ExitStack() as stack:
        folder = stack.enter_context(own_store())
        challenger = shutil.copytree("data/serving", folder / "challenger")
        shares = {ALONE: 0.0, AGAIN: 0.0} | {f"asked {share:.0%}": share for share in SHARES}
        servers = {
            name: stack.enter_context(_served(params, share, UNGUARDED, challenger, folder))
            for name, share in shares.items()
        }
        source = stack.enter_context(generator())

        def beside(name: str) -> int:
            return ride(servers[name]).texts if shares[name] else 0

        for number in range(rounds):
            for load, kind in LOADS.items():
                # Each is first in its turn.
                order = list(servers)[number % len(servers) :] + list(servers)[: number % len(servers)]
                for name in order:
                    before = beside(name)
                    turn = under_load(source, servers[name], asked, kind, seconds)
                    found[load].setdefault(name, []).append(turn)
                    answered[load].setdefault(name, []).append(beside(name) - before)
                    print(f"{load}: {name}: {turn.texts:,.0f} texts/s", file=sys.stderr, flush=True)
                    _rest(servers[name])
        rides = {name: ride(server) for name, server in servers.items() if shares[name]}
    return found, answered, rides


def guard(rounds: int, seconds: float) -> list[str]:
    """Markdown: a challenger that the champion feels: unguarded, then with half of what it costs as the limit."""
    params, asked = load_params(Path("params.yaml")), _texts()
    turns: dict[str, list[Turn]] = {ALONE: [], "beside it": [], "after it was dropped": []}
    with ExitStack() as stack:
        folder = stack.enter_context(own_store())
        challenger = hungry_challenger(folder / "challenger")
        source = stack.enter_context(generator())
        alone = stack.enter_context(_served(params, 0.0, UNGUARDED, challenger, folder))

        def in_turn(name: str, server: Server) -> None:
            for one, where in ((ALONE, alone), (name, server)):
                turns[one].append(under_load(source, where, asked, (1, 1), seconds))
                _rest(where)

        with _served(params, 1.0, UNGUARDED, challenger, folder) as beside:
            # So many at least that the guard has its figure.
            while len(turns["beside it"]) < rounds or not ride(beside).slowdown:
                in_turn("beside it", beside)
            cost = ride(beside).slowdown
        if cost < FELT:
            return [f"The challenger that should slow the champion does not: the guard sees {cost:.2f}×."]
        limit = 1 + (cost - 1) / 2
        with _served(params, 1.0, limit, challenger, folder) as guarded:
            begin = time.monotonic()
            while ride(guarded).riding and time.monotonic() - begin < GUARD_SECONDS:
                under_load(source, guarded, asked, (1, 1), 1.0)
            end, lasted = ride(guarded), time.monotonic() - begin
            if end.riding:
                return [f"Not dropped in {lasted:.0f} s: the guard sees {end.slowdown:.2f}× (limit {limit:.2f}×)."]
            _rest(guarded)
            for _ in range(rounds):
                in_turn("after it was dropped", guarded)
    return [
        f"A challenger that empties the cache all cores share ({TABLE * 4 / 1e6:.0f} MB for each text), asked 100%: "
        f"unguarded the guard sees {cost:.2f}×. With `watch.shadow_max_slowdown` {limit:.2f} it is dropped within "
        f"{lasted:.0f} s of load, after {end.texts:,} texts, at {end.slowdown:.2f}×.",
        "",
        "| one caller, one text | texts/s | p50 ms | p99 ms |",
        "|---|---|---|---|",
        *(f"| {name} | {_of(some, 'texts'):,.0f} | {_of(some, 'p50'):.1f} | {_of(some, 'p99'):.1f} |"
          for name, some in turns.items()),
    ]  # fmt: skip


def hungry_challenger(folder: Path) -> Path:
    """The student with something before its answer that the lowest priority does not soften: it goes through a table of
    256 MB again and again, which empties the cache that all cores share and fills their way to the memory.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shutil.copytree("data/serving", folder)
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
    found: dict[str, dict[str, list[Turn]]], answered: dict[str, dict[str, list[int]]], rides: dict[str, Ride]
) -> list[str]:
    """Markdown: medians, and ratios to the champion alone, taken within rounds."""
    lines: list[str] = []
    for load, servers in found.items():
        lines += [
            f"| {load} | texts/s | of alone (min–max) | p50 ms | p99 ms | of alone (min–max) | challenger's texts |",
            "|---|---|---|---|---|---|---|",
        ]
        alone = servers[ALONE]
        for name, turns in servers.items():
            rate = [mine.texts / theirs.texts for mine, theirs in zip(turns, alone, strict=True)]
            late = [mine.p99 / theirs.p99 for mine, theirs in zip(turns, alone, strict=True)]
            beside = statistics.median(answered[load][name])
            lines.append(
                f"| {name} | {_of(turns, 'texts'):,.0f} | {spread(rate, 2)} | {_of(turns, 'p50'):.1f} | "
                f"{_of(turns, 'p99'):.1f} | {spread(late, 2)} | {beside:,.0f} |"
            )
        lines.append("")
    seen = "; ".join(f"{name}: {one.slowdown:.2f}×, {one.texts:,} texts" for name, one in rides.items())
    return [*lines, f"What the guard sees at the end, and texts the challenger answered in all: {seen}."]


@contextmanager
def own_store() -> Iterator[Path]:
    """A folder that is BentoML's store meanwhile."""
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
    with up(serve_command(tag, "", 0)[:-4], "/v1/classify", log, {SHADOW_FOLDER: str(challenger)}) as server:
        yield server


def _texts() -> list[str]:
    return [text for text in read_texts(Path("data/prepared/test.parquet"))[0] if isinstance(text, str)]


def _rest(server: Server) -> None:
    """Wait until it computes nothing: a challenger goes on with what waits for it."""
    spent = server.cpu_seconds()
    while True:
        time.sleep(0.5)
        spent, before = server.cpu_seconds(), spent
        if spent - before < 0.02:
            return


def _of(turns: list[Turn], field: str) -> float:
    return float(statistics.median(getattr(turn, field) for turn in turns))
