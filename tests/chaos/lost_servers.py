"""Servers that go away while a run is at work: its stages go on, and what they record arrives later, once."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.engine.lost_runs import LOST
from potstill.paths import METRICS
from potstill.registry import tracking
from potstill.registry.store_calls import RUN, patience
from tests.flows.conftest import Toy, ended, until
from tests.flows.test_pipeline_run import flow_runs, runs
from tests.flows.test_team_servers import TeamServers, servers, team_toy
from tests.flows.test_work_pools import Team, assert_student_is_exact, gpu_worker, handed_runs, team

__all__ = ["servers", "team", "team_toy"]

pytestmark = pytest.mark.slow

AWAY_SECONDS = 60  # at least
# Refused by its gate, a run is over without a Bento to build and serve.
REFUSED = ("run", "--set", "gate.max_p99_ms=0.1")


@pytest.fixture
def earlier(team_toy: Toy) -> Iterator[set[str]]:
    """The ids of the MLflow runs of earlier tries, which have the same servers; what reads them is patient."""
    with patience(RUN):
        yield {run.info.run_id for run in runs(team_toy)}


def assert_recorded_once(toy: Toy, servers: TeamServers, earlier: set[str]) -> None:
    """MLflow has every run and every number once, and Prefect how the only flow run ended."""
    recorded = sorted((run.info for run in runs(toy) if run.info.run_id not in earlier), key=lambda info: info.run_name)
    assert [info.run_name for info in recorded] == ["evaluate", "export", "pipeline", "prepare"]
    assert {info.status for info in recorded} == {"FINISHED"}
    losses = tracking.client(toy.folder).get_metric_history(recorded[1].run_id, "loss")
    assert [(loss.step, loss.value) for loss in losses] == [(0, 1.0), (1, 0.5)]
    (flow_run,) = flow_runs(Toy(toy.folder, toy.variables | {"PREFECT_API_URL": servers.prefect}))
    assert flow_run.state.name == "Refused"


@pytest.mark.parametrize("away", [("mlflow",), ("prefect",), ("mlflow", "prefect")], ids="-".join)
def test_a_run_goes_on_while_servers_are_away(
    away: tuple[str, ...], team_toy: Toy, servers: TeamServers, earlier: set[str]
) -> None:
    doors = [{"mlflow": servers.mlflow_door, "prefect": servers.prefect_door}[name] for name in away]
    waiting = team_toy.folder / ".work/waiting"
    run = team_toy.start(*REFUSED, TOY_WAIT="export")
    assert until(lambda: waiting.exists() or run.poll() is not None)
    for door in doors:
        door.close()
    back = time.monotonic() + AWAY_SECONDS
    waiting.unlink()
    assert until((team_toy.folder / METRICS).exists)  # two stages later
    time.sleep(max(back - time.monotonic(), 0))
    for door in doors:
        door.open()
    refused = ended(run)
    assert refused.code == 7, refused
    assert_recorded_once(team_toy, servers, earlier)


def test_a_run_goes_on_when_the_database_is_restarted(
    team_toy: Toy, servers: TeamServers, earlier: set[str], chance: random.Random
) -> None:
    run = team_toy.start(*REFUSED)
    time.sleep(chance.uniform(0, 20))
    servers.cluster.restart()
    refused = ended(run)
    assert refused.code == 7, refused
    assert_recorded_once(team_toy, servers, earlier)


def test_the_worker_of_another_pool_is_killed_in_mid_stage(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.cpu.variables["MLFLOW_TRACKING_URI"])
    with gpu_worker(team, TOY_HANG="export") as worker, ThreadPoolExecutor(1) as thread:
        run = thread.submit(team.run)
        assert until(lambda: any(team.gpu.rglob("hanging")) or run.done())
        for process in (worker, *worker.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        state, log = run.result()
    assert state.type.value == "FAILED", (state, log)
    assert "export on work pool gpu ended as Lost (Nothing was heard of its process for 90 s" in state.message
    with gpu_worker(team):
        state, log = team.run()
    assert state.name == "Refused", (state.message, log)
    assert sorted(run.state.name for run in handed_runs(team.cpu)) == ["Completed", LOST]
    finished = [run.info for run in runs(team.cpu) if run.info.status == "FINISHED"]
    assert sorted(info.run_name for info in finished) == ["evaluate", "export", "pipeline", "prepare"]
    assert_student_is_exact(team.cpu, tmp_path)
