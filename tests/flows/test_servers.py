"""Each server imports and starts, and one scheduled run really fires: no resolver and no `pip check` would tell."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import yaml

from flows.commands.params_changes import change_params
from potstill.compute.processes import free_port
from potstill.config.params import Params
from tests.flows.conftest import REPOSITORY, Toy, answers, serving, until
from tests.flows.test_pipeline_run import client_of, flow_runs, task_names

# Servers and a whole run: minutes where the machine has other things to do.


def test_prefect_starts(prefect_server: str) -> None:
    assert answers(f"{prefect_server}/health")


def test_mlflow_starts_and_shows_the_workspace(offline_toy: Toy) -> None:
    port, folder = free_port(), offline_toy.folder
    arguments = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    variables = {**offline_toy.variables, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving(arguments, f"http://127.0.0.1:{port}/health", folder / "log.txt", variables, folder):
        pass
    assert not (offline_toy.folder / "mlruns").exists()


def test_of_two_schedulers_one_run_goes_on_at_a_time_and_an_unchanged_tick_is_nothing_new(toy: Toy) -> None:
    code = (
        "import pathlib; from prefect.schedules import Interval; import flows.commands.schedule_runs as runs; "
        "runs._prefect_schedule = lambda _: Interval(5); runs.serve_schedule(pathlib.Path.cwd())"  # cron has minutes
    )
    log = toy.folder / "log.txt"
    with log.open("wb") as output, ExitStack() as ending:
        for _ in range(2):
            scheduler = subprocess.Popen(
                [sys.executable, "-c", code], cwd=toy.folder, env=toy.variables, stdout=output, stderr=output,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
            ending.callback(scheduler.wait, 30)
            ending.callback(scheduler.send_signal, signal.SIGINT)
        # A look reads two hundred planned runs.
        wanted = {"Completed", "NothingNew", "Cancelled"}
        assert until(lambda: wanted <= state_names(toy), pause_seconds=2), log.read_text()
    started = [run for run in flow_runs(toy) if not run.state.is_cancelled()]  # Prefect starts those when it ends them
    assert all(run.auto_scheduled for run in started)
    assert {run.state.type.value for run in started if run.state.is_final()} == {"COMPLETED"}, log.read_text()
    ended = [run for run in started if run.end_time is not None]
    assert all(before.end_time <= after.start_time for before, after in pairwise(ended))
    nothing = next(run for run in started if run.state.name == "NothingNew")
    assert nothing.state.message == "version 1 of movie-reviews is the champion"
    assert not task_names(toy, nothing)
    assert "Traceback" not in log.read_text()
    assert toy.nothing_runs(), toy.processes()


def state_names(toy: Toy) -> set[str]:
    return {run.state.name for run in flow_runs(toy, started=False)}


def test_prefects_own_deploy_takes_the_deployment(toy: Toy, default_params: Params) -> None:
    (toy.folder / "prefect.yaml").write_bytes((REPOSITORY / "prefect.yaml").read_bytes())
    _prefect(toy, "work-pool", "create", "potstill", "--type", "process")
    _prefect(toy, "--no-prompt", "deploy", "--all")
    (schedule,) = _deployment(toy, "scheduled").schedules
    settings = _deployment(toy, "manual").parameter_openapi_schema["properties"]["settings"]
    assert "distill.temperature=4" in settings["description"]
    triggered = {name: _deployment(toy, name).entrypoint.rpartition(".")[2] for name in ("data", "drift")}
    assert triggered == {"data": "run_on_new_data", "drift": "run_on_drift"}
    expected = default_params.schedule
    assert (schedule.schedule.cron, schedule.schedule.timezone, schedule.active) == (
        expected.cron,
        expected.timezone,
        True,
    )


def test_the_deployments_on_other_pools_are_taken(toy: Toy) -> None:
    shutil.copyfile(REPOSITORY / "deploy/prefect.yaml", toy.folder / "other.yaml")
    pools = {"process": "potstill-clones", "docker": "potstill-docker", "kubernetes": "potstill-kubernetes"}
    for kind, pool in pools.items():
        _prefect(toy, "work-pool", "create", pool, "--type", kind)
    _prefect(toy, "--no-prompt", "deploy", "--prefect-file", "other.yaml", "--all")
    for kind, pool in pools.items():
        deployment = _deployment(toy, kind)
        assert deployment.work_pool_name == pool
        assert [next(iter(step)).rpartition(".")[2] for step in deployment.pull_steps] == [
            "git_clone",
            "run_shell_script",
        ]


def _prefect(toy: Toy, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=toy.folder, env=toy.variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done


def _deployment(toy: Toy, name: str) -> Any:
    with client_of(toy) as client:
        return client.read_deployment_by_name(f"potstill/{name}")


def test_prefect_yaml_agrees_with_params(default_params: Params) -> None:
    declared = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text(encoding="utf-8"))
    deployment = next(each for each in declared["deployments"] if each["name"] == "scheduled")
    (schedule,) = deployment["schedules"]
    assert schedule["cron"] == default_params.schedule.cron
    assert schedule["timezone"] == default_params.schedule.timezone


@pytest.mark.parametrize(("cron", "zone"), [("99 * * * *", "UTC"), ("0 3 * * 1", "Mars/Olympus")])
def test_a_schedule_that_cannot_be_is_refused(toy: Toy, cron: str, zone: str) -> None:
    change_params(toy.folder / "params.yaml", None, [f"schedule.cron={cron}", f"schedule.timezone={zone}"])
    done = toy.run("schedule")
    assert done.code == 3, done
    assert "is no schedule" in done.err
    assert done.err.count("\n") == 1


def test_a_configured_server_that_is_gone_is_said(offline_toy: Toy) -> None:
    gone = f"http://127.0.0.1:{free_port()}/api"
    done = offline_toy.run("run", PREFECT_API_URL=gone)
    assert done.code == 60, done
    assert done.err == (
        f"potstill: the Prefect API at {gone} does not answer; start it (`prefect server start`), or unset "
        "PREFECT_API_URL or servers.prefect_url\n"
    )
