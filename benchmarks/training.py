"""Compares the distillation step with transformers' Trainer and TextBrewer: rows/s, as ratios with spread.

Run in a workspace after `potstill run`: `python benchmarks/training.py [--rounds 5] [--seconds 10] [--write]`. All
contenders step over the same rows with the same models and take turns, each in a process of its own. A ratio is taken
within each round, so that other load affects both sides of it. The peers are not dependencies of Potstill:
`pip install accelerate tensorboardX && pip install --no-deps textbrewer==0.2.1.post1`.

Other measurements are `--ablation` (Potstill without each of its optimisations), `--to-accuracy PEER` (whole runs of
Trainer or TextBrewer, and Potstill to the dev accuracy of each; with `--labelled` on the labelled rows, without
transfer) and `--gpu` (padding-free training on a GPU, which needs only torch and transformers). `--write` puts the
result into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import flags, machine, publish, spread, today, versions

if TYPE_CHECKING:
    from training_peers import Reading, Variation

    Readings = dict[str, list[Reading]]

MARKS = {
    name: f"<!-- training {name} -->"
    for name in ("peers", "ablation", "accuracy trainer", "accuracy textbrewer", "gpu")
}
POTSTILL = "Potstill"
PEER_NAMES = {"trainer": "Trainer", "textbrewer": "TextBrewer at length 128"}
# Module that a peer needs -> the command that installs it.
PEERS = {
    "accelerate": "pip install accelerate",
    "textbrewer": "pip install --no-deps textbrewer==0.2.1.post1",
    "tensorboardX": "pip install tensorboardX",
}


class Worker:
    """A contender's process, which waits for requests."""

    def __init__(self, variation: Variation) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = [sys.executable, __file__, "--worker", variation.command()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to one request; ends the benchmark with the contender's last output if it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do} | arguments) + "\n")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise SystemExit("a contender failed: " + "".join(self._log.readlines()[-15:]))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._log.close()


def alternate(variations: dict[str, Variation], rounds: int, seconds: float) -> tuple[Readings, list[dict[str, float]]]:
    """Measure all contenders in turns, in an order that rotates with the rounds.

    Returns:
        Readings of each contender in each round, and the matrix rates right after Potstill's turns.
    """
    from training_peers import Reading

    readings: Readings = {name: [] for name in variations}
    rates = []
    with ExitStack() as stack:
        workers = {name: Worker(variation) for name, variation in variations.items()}
        for worker in workers.values():
            stack.callback(worker.close)
        for worker in workers.values():
            worker.ask("turn", seconds=0)  # loads the models before anything is timed
        names = list(variations)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                reading = Reading(**workers[name].ask("turn", seconds=seconds))
                readings[name].append(reading)
                print(f"  round {turn + 1} of {rounds}: {name} {reading.rate:,.1f} rows/s", file=sys.stderr)
                if name == POTSTILL:
                    rates.append(workers[name].ask("rates"))
    return readings, rates


def peers(precision: Any) -> dict[str, Variation]:
    """Return Potstill and its peers."""
    from training_peers import Variation

    return {
        POTSTILL: Variation(precision=precision),
        "Trainer, bf16": Variation(kind="trainer", precision="bf16"),
        "Trainer, fp32": Variation(kind="trainer"),
        "TextBrewer at length 128, fp32": Variation(kind="textbrewer"),
    }


def ablations(precision: Any) -> dict[str, Variation]:
    """Return Potstill, and Potstill without each of its optimisations."""
    from training_peers import Variation

    def potstill(**changes: Any) -> Variation:
        return Variation(**({"precision": precision} | changes))

    other = "fp32" if precision == "bf16" else "bf16"
    return {
        POTSTILL: potstill(),
        "live teacher instead of stored signals": potstill(signals="live"),
        "random batches instead of similar lengths": potstill(batches="random"),
        f"{other} instead of {precision} (measured, `auto`)": potstill(precision=other),
        "fused attention (sdpa) instead of plain": potstill(attention="sdpa"),
        "AdamW as a loop instead of fused": potstill(optimizer="default"),
        "freed memory returned instead of kept": potstill(memory="returned"),
        "batch_tokens 512 instead of 2048": potstill(plan={"batch_tokens": 512}),
        "batch_tokens 1024 instead of 2048": potstill(plan={"batch_tokens": 1024}),
        "embeddings frozen instead of trained": potstill(plan={"freeze_embeddings": True}),
        "dropout 0.1 instead of 0": potstill(plan={"dropout": 0.1}),
        "all of these the other way, fp32, batch_tokens 2048": Variation(
            "potstill", "fp32", "live", "random", "sdpa", "default", "returned", plan={"dropout": 0.1}
        ),
    }


def peers_table(readings: Readings) -> list[str]:
    """Return Markdown: rows/s, rows of a step, and how many times faster Potstill is."""
    lines = ["| | rows/s (median) | rows per step | Potstill is faster by (min–max) |", "|---|---|---|---|"]
    return lines + [_line(name, turns, _ratios(readings[POTSTILL], turns)) for name, turns in readings.items()]


def ablation_table(readings: Readings) -> list[str]:
    """Return Markdown: rows/s, rows of a step, and the share of the default configuration's rate."""
    lines = ["| | rows/s (median) | rows per step | of the default (min–max) |", "|---|---|---|---|"]
    return lines + [_line(name, turns, _ratios(turns, readings[POTSTILL]), 2) for name, turns in readings.items()]


def _ratios(numerators: list[Reading], denominators: list[Reading]) -> list[float]:
    return [reading.rate / base.rate for reading, base in zip(numerators, denominators, strict=True)]


def _line(name: str, readings: list[Reading], ratios: list[float], digits: int = 1) -> str:
    rate = statistics.median(reading.rate for reading in readings)
    size = sum(reading.rows for reading in readings) / sum(reading.steps for reading in readings)
    return f"| {name} | {rate:,.1f} | {size:.1f} | {spread(ratios, digits)} |"


def matrix_share(readings: Readings, rates: list[dict[str, float]]) -> list[str]:
    """Return for each number format which share of the bare products' rate Potstill's step reaches."""
    reached = [reading.flops / reading.seconds for reading in readings[POTSTILL]]
    lines = []
    for name in ("bf16", "fp32"):
        shares = [100 * flops / rate[name] for flops, rate in zip(reached, rates, strict=True)]
        rate = statistics.median(rate[name] for rate in rates)
        lines.append(
            f"- {name}: {statistics.median(shares):.0f}% ({min(shares):.0f}–{max(shares):.0f}) "
            f"of {rate / 1e9:.0f} GFLOP/s"
        )
    head = f"{statistics.median(reached) / 1e9:.0f} GFLOP/s of products on real tokens in Potstill's step, which is"
    return [head, "", *lines]


def to_accuracy(precision: Any, peer: Any, epochs: int, runs: int, *, labelled: bool) -> list[str]:
    """Time whole runs of a peer, and after each Potstill to the dev accuracy of its end, both on the same rows."""
    from training_peers import Variation

    form: Any = "fp32" if peer == "textbrewer" else precision
    variations = [
        Variation(kind=peer, precision=form, labelled=labelled),
        Variation(precision=precision, labelled=labelled),
    ]
    # As many epochs as the peer; with transfer rows, those of the distill stage.
    changes = {"epochs": epochs, "evaluations_per_epoch": 5} if labelled else {"evaluations_per_epoch": 20}
    rows = "the labelled rows" if labelled else "all rows of the distill stage"
    lines = [
        f"{PEER_NAMES[peer]} in {form} on {rows}, in turns with Potstill; epochs: {epochs}, runs: {runs}.",
        "",
        "| the peer's s | dev accuracy | Potstill's s | dev accuracy | times faster | with signals made anew |",
        "|---|---|---|---|---|---|",
    ]
    for _ in range(runs):
        # New processes, because the peer's student and Potstill's plan are those of a first run.
        with ExitStack() as stack:
            workers = [Worker(variation) for variation in variations]
            for worker in workers:
                stack.callback(worker.close)
            target = workers[0].ask("learn", epochs=epochs)
            result = workers[1].ask("reach", target=target["accuracy"], changes=changes)
        lines.append(_accuracy_line(target, result))
        print(lines[-1], file=sys.stderr)
    return lines


def _accuracy_line(target: dict[str, Any], result: dict[str, Any]) -> str:
    """Return the row of a run."""
    start = f"| {target['seconds']:.0f} | {target['accuracy']:.4f} "
    if not result["reached"]:
        return start + f"| not reached | {result['best']:.4f} | – | – |"
    seconds, anew = result["seconds"], result["seconds"] + result["signals"]
    ratios = f"{target['seconds'] / seconds:.1f}× | {target['seconds'] / anew:.1f}×"
    return start + f"| {seconds:.1f} | {result['best']:.4f} | {ratios} |"


def choose_precision() -> tuple[Any, str]:
    """Return what `auto` chooses here, and why; measured anew, so that nothing is written to the workspace."""
    from training_peers import CPU, Workspace

    from potstill.compute.precision import choose_precision as choose

    config = Workspace().teacher.config
    with tempfile.TemporaryDirectory() as scratch:
        return choose("auto", CPU, config.hidden_size, config.intermediate_size, Path(scratch) / "precision.json")


def needed_peers(arguments: argparse.Namespace) -> list[str]:
    """Return the modules of the peers that are measured."""
    if arguments.ablation:
        return []
    return ["accelerate"] if arguments.to_accuracy == "trainer" else [*PEERS]


def check_peers(modules: list[str]) -> None:
    """End the benchmark with the commands to run if a peer is missing."""
    missing = [PEERS[module] for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise SystemExit(f"the peers to compare with are not installed; run: {' && '.join(missing)}")


def check_workspace() -> None:
    """End the benchmark if there is nothing to train on."""
    needed = ("params.yaml", "data/tokens/info.json", "data/teacher/config.json", "data/signals/manifest.json")
    missing = [name for name in needed if not Path(name).exists()]
    if missing:
        raise SystemExit(f"{missing[0]} is not here; run this in a workspace after `potstill run`")


def head(arguments: argparse.Namespace, precision: str, why: str) -> str:
    """Say on what machine, when and with which packages."""
    import torch

    peers = [module for module in needed_peers(arguments) if module != "tensorboardX"]
    packages = ["torch", "transformers", *peers]
    return (
        f"{machine()} ({flags()}), {torch.get_num_threads()} threads, {today()}; {versions(*packages)}; "
        f"Potstill in {precision} ({why})"
    )


def measure(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return name and text of the section that was asked for."""
    check_workspace()
    check_peers(needed_peers(arguments))
    precision, why = choose_precision()
    setup = head(arguments, precision, why)
    if arguments.to_accuracy:
        peer = arguments.to_accuracy
        lines = to_accuracy(precision, peer, arguments.epochs, arguments.rounds, labelled=arguments.labelled)
        return f"accuracy {peer}", "\n".join([f"{setup}.", "", *lines])
    name = "ablation" if arguments.ablation else "peers"
    contenders = ablations(precision) if arguments.ablation else peers(precision)
    readings, rates = alternate(contenders, arguments.rounds, arguments.seconds)
    table = ablation_table(readings) if arguments.ablation else peers_table(readings)
    turns = f"{setup}; {arguments.rounds} alternating rounds of {arguments.seconds:g} s."
    return name, "\n".join([turns, "", *table, "", *matrix_share(readings, rates)])


def measure_gpu(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return name and text of the GPU's section, without Potstill's other dependencies."""
    import training_gpu

    return "gpu", training_gpu.measure(arguments.rounds, arguments.seconds)


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of one turn")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--ablation", action="store_true", help="what each of Potstill's optimisations gives")
    kinds.add_argument("--to-accuracy", choices=PEER_NAMES, help="wall time to the final dev accuracy of this peer")
    kinds.add_argument("--gpu", action="store_true", help="padding-free against padded training on a GPU")
    kinds.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=2, help="of the peer's run for --to-accuracy")
    parser.add_argument("--labelled", action="store_true", help="--to-accuracy: both learn only the labelled rows")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    if arguments.worker:
        import training_peers

        training_peers.serve(arguments.worker)
        return
    name, section = measure_gpu(arguments) if arguments.gpu else measure(arguments)
    publish(MARKS[name], section, write=arguments.write)


if __name__ == "__main__":
    main()
