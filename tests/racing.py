"""Promoters that race in two clones of a project: one is to win each round, the others are to hear why not.

`python -m tests.racing --rounds 20 --store postgresql` (or sqlite, server) measures it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from potstill.compute.processes import free_port
from potstill.errors import PotstillError
from potstill.registry.history import read_history
from potstill.registry.promotion import Registry
from potstill.registry.store_calls import RUN, patience
from potstill.registry.versions import CHAMPION, PREVIOUS
from tests.flows.conftest import serving
from tests.postgres import postgres
from tests.registries import PROJECT, add_version


@dataclass(frozen=True)
class Round:
    """One round: what each promoter was told; an empty sentence for the one that won."""

    sentences: list[str]
    seconds: float

    @property
    def winners(self) -> int:
        """How many were not refused."""
        return self.sentences.count("")


def race(uri: str, folder: Path, *, promoters: int, rounds: int, project: str = PROJECT) -> list[Round]:
    """Let promoters in two clones race for the champion.

    Args:
        uri: of the store that both clones use; the environment's MLFLOW_TRACKING_URI while this goes on.
        folder: where the clones are made.
        promoters: how many, half of them in each clone.
        rounds: each promoter tries another version in each.
        project: whose registry it is.
    """
    os.environ["MLFLOW_TRACKING_URI"] = uri
    clones = [folder / "one", folder / "two"]
    for clone in clones:
        clone.mkdir()
    registry = Registry(clones[0], project)
    versions = [add_version(registry, f"candidate {number}").version for number in range(promoters + 1)]
    registry.promote(versions[-1], expected=None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.racing", "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"])
    barrier, told = context.Barrier(promoters), context.Queue()
    orders = [context.Queue() for _ in range(promoters)]
    workers = [
        context.Process(
            target=_promote, args=(uri, clones[number % 2], project, orders[number], told, barrier), daemon=True
        )
        for number in range(promoters)
    ]
    for worker in workers:
        worker.start()
    results = []
    for _ in range(rounds):
        champion = registry.champion()
        assert champion is not None
        others = [version for version in versions if version != champion.version]
        begin = time.monotonic()
        for order, version in zip(orders, others, strict=True):
            order.put((version, champion.version))
        results.append(Round([told.get(timeout=240) for _ in workers], time.monotonic() - begin))
    for order in orders:
        order.put(None)
    for worker in workers:
        worker.join(30)
    return results


def check_history(workspace: Path, rounds: int, project: str = PROJECT) -> None:
    """The ledger has each promotion once, each against the champion before, and the aliases are where it says."""
    registry = Registry(workspace, project)
    lines = registry.ledger.lines()
    moves = [line.facts for line in lines if line.action == "promote" and line.state == "done"]
    assert len(moves) == rounds + 1
    assert [move["expected"] for move in moves] == [None, *(move["version"] for move in moves[:-1])]
    assert not read_history(lines).open
    assert [line.fence for line in lines] == sorted(line.fence for line in lines)
    aliases = {alias: registry.get(alias).version for alias in (CHAMPION, PREVIOUS)}
    assert aliases == {CHAMPION: moves[-1]["version"], PREVIOUS: moves[-2]["version"]}


def _promote(uri: str, workspace: Path, project: str, orders: Any, told: Any, barrier: Barrier) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri  # the fork server has the environment of the race that started it
    with patience(RUN):  # a machine that has much to do is no reason to be refused
        registry = Registry(workspace, project)
        registry.champion()
    while (order := orders.get()) is not None:
        version, expected = order
        barrier.wait(240)
        try:
            registry.promote(version, expected=expected)
        except PotstillError as error:
            told.put(f"{type(error).__name__}: {error}")
        except Exception as error:
            told.put(f"UNEXPECTED {type(error).__name__}: {error}")
        else:
            told.put("")


@contextmanager
def mlflow_server(backend: str, folder: Path) -> Iterator[str]:
    """Run MLflow's server on a store; yields its address."""
    port = free_port()
    arguments = ["-m", "mlflow", "server", "--backend-store-uri", backend, "--port", str(port), "--workers", "2"]
    arguments += ["--artifacts-destination", str(folder / "artifacts")]
    # Uvicorn kills a worker that does not answer within 5 s; on a loaded machine MLflow's import takes longer.
    arguments += ["--uvicorn-opts", "--timeout-worker-healthcheck 120"]
    variables = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    variables.pop("MLFLOW_TRACKING_URI", None)
    address = f"http://127.0.0.1:{port}"
    with serving(arguments, f"{address}/health", folder / "server.txt", variables):
        yield address


def main() -> None:
    """Measure a race."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--promoters", type=int, default=8)
    parser.add_argument("--store", choices=["sqlite", "postgresql", "server"], default="sqlite")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uri = f"sqlite:///{folder}/mlflow.db"
        if arguments.store != "sqlite":
            uri = stack.enter_context(postgres())
        if arguments.store == "server":
            uri = stack.enter_context(mlflow_server(uri, folder))
        results = race(uri, folder, promoters=arguments.promoters, rounds=arguments.rounds)
        check_history(folder / "one", arguments.rounds)
        check_history(folder / "two", arguments.rounds)
        seconds = sorted(result.seconds for result in results)
        print(f"{arguments.store}: winners {[result.winners for result in results]}")
        print(f"seconds a round: median {seconds[len(seconds) // 2]:.2f}, longest {seconds[-1]:.2f}")
        print("\n".join(sorted({sentence for result in results for sentence in result.sentences})[:12]))


if __name__ == "__main__":
    main()
