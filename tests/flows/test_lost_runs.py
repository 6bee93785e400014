"""A run whose worker was killed: Prefect's server ends it, and nobody has to start another run for that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from typing import Any
from uuid import UUID

import pytest

from flows.commands.params_changes import change_params
from flows.engine.lost_runs import HEARTBEAT_SECONDS, LOST
from tests.flows.conftest import Toy, until
from tests.flows.test_pipeline_run import client_of, flow_runs
from tests.receivers import Webhook

pytestmark = pytest.mark.slow
NAME = "potstill/scheduled"


def deployment(toy: Toy) -> Any:
    from prefect.exceptions import ObjectNotFound

    with client_of(toy) as client:
        try:
            return client.read_deployment_by_name(NAME)
        except ObjectNotFound:
            return None


def automations(toy: Toy, deployment_id: UUID) -> list[Any]:
    with client_of(toy) as client:
        return list(client.read_automations_by_name(f"potstill: lost runs of deployment {deployment_id}"))


def test_a_run_whose_worker_was_killed_is_crashed_and_its_slot_is_free(toy: Toy, receiver: Webhook) -> None:
    change_params(toy.folder / "params.yaml", None, [f'notify.webhooks=["{receiver.url}"]'])
    log = toy.folder / ".work/scheduler.txt"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as output:
        scheduler = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "schedule"], cwd=toy.folder, stdout=output, stderr=output,
            env={**toy.variables, "TOY_HANG": "prepare"}, start_new_session=True,
        )  # fmt: skip
    try:
        assert until(lambda: (known := deployment(toy)) is not None and not known.paused), log.read_text()
        with client_of(toy) as client:
            run = client.create_flow_run_from_deployment(deployment(toy).id)
        assert until((toy.folder / ".work/hanging").exists), log.read_text()
    finally:
        os.killpg(scheduler.pid, signal.SIGKILL)
        scheduler.wait()
    assert toy.nothing_runs(), toy.processes()
    (automation,) = automations(toy, deployment(toy).id)
    assert automation.trigger.within.total_seconds() == 3 * HEARTBEAT_SECONDS

    def state() -> Any:
        with client_of(toy) as client:
            return client.read_flow_run(run.id).state

    assert state().is_running()
    assert until(lambda: state().is_final(), pause_seconds=3)
    assert (state().type.value, state().name) == ("CRASHED", LOST)
    assert "Nothing was heard of its process for 90 s" in state().message
    assert deployment(toy).global_concurrency_limit.active_slots == 0
    assert receiver.events() == []

    again = toy.run("run", TOY_FAIL="prepare")
    assert again.code == 22, again
    assert receiver.events() == ["failure", "failure"]
    assert "The process was killed" in receiver.messages[0]["text"]
    assert state().name == "Crashed"
    assert [each.state.name for each in flow_runs(toy)] == ["Crashed", "Failed"]


def test_the_automation_is_made_once_follows_the_heartbeats_and_has_one_to_begin_with(
    toy: Toy, prefect_server: str
) -> None:
    from prefect.events.filters import EventFilter
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.engine.lost_runs import crash_silent_runs

    deployment_id = UUID(int=17)
    run_id = UUID(int=18)
    seen = []
    for seconds in (30, 30, 60):
        with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: seconds}):
            crash_silent_runs(str(deployment_id), str(run_id))
            EventsWorker.drain_all(timeout=60)
        (automation,) = automations(toy, deployment_id)
        with urllib.request.urlopen(f"{prefect_server}/automations/{automation.id}", timeout=20) as response:
            updated = json.load(response)["updated"]
        seen.append((automation.id, updated, automation.trigger.within.total_seconds()))
    first, again, other = seen
    assert first == again
    assert (other[0], other[2]) == (first[0], 180)

    of_run = {"resource": {"id": [f"prefect.flow-run.{run_id}"]}}
    of_deployment = {"related": {"id": [f"prefect.deployment.{deployment_id}"], "role": ["deployment"]}}
    heartbeats = EventFilter.model_validate(of_run | of_deployment)
    with client_of(toy) as client:
        assert until(lambda: client.read_events(heartbeats, limit=9).total == 3)
