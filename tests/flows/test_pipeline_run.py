from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.engine.pipeline_run import CURRENT, open_run
from potstill.registry import tracking
from potstill.registry.artifact_locations import moved_from
from potstill.registry.promotion import Registry
from potstill.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from tests.flows.conftest import Ended, Toy, ended, until
from tests.receivers import Webhook
from tests.registries import add_version

# Whole runs, several in some tests: minutes where the machine has other things to do.
STAGES = ["prepare", "export", "evaluate"]


def runs(toy: Toy) -> list[Any]:
    store = tracking.client(toy.folder)
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    return list(store.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def parents(toy: Toy) -> list[Any]:
    return [run for run in runs(toy) if run.data.tags.get("potstill.kind") == "pipeline"]


def registry(toy: Toy) -> Registry:
    return Registry(toy.folder, "movie-reviews")


def counts(toy: Toy) -> tuple[int, int, int]:
    """MLflow runs, versions, Bentos."""
    bentos = os.path.join(toy.variables["BENTOML_HOME"], "bentos", "potstill-movie-reviews")
    return len(runs(toy)), len(registry(toy).versions()), len(os.listdir(bentos)) if os.path.isdir(bentos) else 0


def flow_runs(toy: Toy, *, started: bool = True) -> list[Any]:
    """Prefect's runs of the workspace, those that have started alone by default, oldest first."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    from flows.engine.prefect_server import workspace_tag

    mine = FlowRunFilter.model_validate({"tags": {"all_": [workspace_tag(toy.folder)]}})
    with client_of(toy) as client:
        # The server gives 200 at most, and plans a hundred ahead.
        runs = list(client.read_flow_runs(flow_run_filter=mine, sort=FlowRunSort.EXPECTED_START_TIME_ASC))
    return sorted((run for run in runs if run.start_time), key=lambda run: run.start_time) if started else runs


@contextmanager
def client_of(toy: Toy) -> Iterator[Any]:
    """A client of the toy's Prefect server."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    settings = {
        PREFECT_API_URL: toy.variables["PREFECT_API_URL"],
        PREFECT_API_AUTH_STRING: toy.variables.get("PREFECT_API_AUTH_STRING"),
    }
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


def task_names(toy: Toy, flow_run: Any) -> set[str]:
    return {run.name for run in task_runs(toy, flow_run)}


def task_states(toy: Toy) -> dict[str, str]:
    """Name of a task -> name of its state, of the newest run."""
    return {run.name: run.state.name for run in task_runs(toy, flow_runs(toy)[-1])}


def task_runs(toy: Toy, flow_run: Any) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter

    run_filter = FlowRunFilter.model_validate({"id": {"any_": [flow_run.id]}})
    with client_of(toy) as client:
        return list(client.read_task_runs(flow_run_filter=run_filter))


def artifacts_of(toy: Toy, flow_run: Any) -> dict[str, str]:
    """Key of an artifact on Prefect's page of a run -> its Markdown."""
    from prefect.client.schemas.filters import ArtifactFilter

    run_filter = ArtifactFilter.model_validate({"flow_run_id": {"any_": [flow_run.id]}})
    with client_of(toy) as client:
        return {artifact.key: artifact.data for artifact in client.read_artifacts(artifact_filter=run_filter)}


def log_lines(toy: Toy, flow_run: Any) -> list[str]:
    """What Prefect's page shows as the run's log."""
    from prefect.client.schemas.filters import LogFilter

    run_filter = LogFilter.model_validate({"flow_run_id": {"any_": [flow_run.id]}})
    with client_of(toy) as client:
        return [line.message for line in client.read_logs(log_filter=run_filter)]


def assert_state(toy: Toy, name: str, kind: str, printed: str) -> None:
    """Prefect shows the newest run under that name and type, with the sentence that was printed, and no traceback."""
    run = flow_runs(toy)[-1]
    assert (run.state.name, run.state.type.value) == (name, kind)
    assert f"potstill: {run.state.message}\n" == printed
    assert not [line for line in log_lines(toy, run) if "Traceback" in line]


@dataclass(frozen=True)
class Promoted:
    """A toy workspace whose first run has made version 1 the champion.

    Attributes:
        toy: the workspace.
        first: what the run printed.
        flow_runs: Prefect's runs of the workspace after it.
    """

    toy: Toy
    first: Ended
    flow_runs: list[Any]


@pytest.fixture(scope="module")
def promoted(
    template: Path, variables: dict[str, str], prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Promoted]:
    """Made by one run for two tests: the first one leaves the workspace as it is, the second one changes it."""
    folder = tmp_path_factory.mktemp("promoted") / "toy"
    shutil.copytree(template, folder)
    toy = Toy(folder, {**variables, "PREFECT_API_URL": prefect_server})
    first = toy.run("run")
    assert first.code == 0, first
    yield Promoted(toy, first, flow_runs(toy))
    toy.close()


def test_a_run_promotes_and_a_second_one_does_nothing(promoted: Promoted) -> None:
    toy, first = promoted.toy, promoted.first
    champion = registry(toy).champion()
    assert champion is not None
    assert champion.version == "1"
    assert registry(toy).by_alias(CHALLENGER) is None
    (parent,) = parents(toy)
    children = {
        run.info.run_name: run for run in runs(toy) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert sorted(children) == sorted(STAGES)
    assert {run.info.status for run in runs(toy)} == {"FINISHED"}
    assert {name: parent.data.tags[f"stage.{name}"] for name in STAGES} == {
        n: r.info.run_id for n, r in children.items()
    }
    artifacts = {item.path for item in tracking.client(toy.folder).list_artifacts(parent.info.run_id)}
    assert artifacts == {"params.yaml", "dvc.lock", "evidence"}
    hashes = {item.dataset.name: item.dataset.digest for item in parent.inputs.dataset_inputs}
    assert hashes["data/prepared"].endswith(".dir")
    (flow_run,) = promoted.flow_runs
    assert flow_run.state.is_completed()
    assert task_names(toy, flow_run) == {*STAGES, "gate", "package", "smoke", "register", "promote"}
    pages = artifacts_of(toy, flow_run)
    assert sorted(pages) == [f"movie-reviews-{name}" for name in ("candidate", "report", "version")]
    assert "Gate: passed: all" in pages["movie-reviews-candidate"]
    assert "| Teacher |" in pages["movie-reviews-candidate"]
    server = "http://127.0.0.1:5000/#"
    assert f"{server}/models/movie-reviews/versions/1" in pages["movie-reviews-version"]
    report = f"runs/{parent.info.run_id}/artifacts/evidence/report.html"
    assert f"{server}/experiments/{parent.info.experiment_id}/{report}" in pages["movie-reviews-report"]
    assert "champion  version 1" in first.out
    assert champion.bento is not None
    assert champion.bento in first.out
    assert not (toy.folder / "mlruns").exists()

    before = counts(toy)
    second = toy.run("run")
    assert second.code == 0, second
    assert counts(toy) == before
    assert [f"{stage}: {CURRENT}" in second.out for stage in STAGES] == [True] * 3
    ((name, _),) = triggered(toy, "run_on_new_data(return_state=True)")
    assert name == "NothingNew"
    assert counts(toy) == before
    assert toy.nothing_runs()


def test_a_change_runs_what_depends_on_it_and_a_refused_candidate_changes_nothing(
    promoted: Promoted, receiver: Webhook
) -> None:
    toy = promoted.toy
    made_prepare = parents(toy)[0].data.tags["stage.prepare"]
    told = ["--set", f'notify.webhooks=["{receiver.url}"]']
    changed = toy.run("run", "--set", "finetune.learning_rate=0.5", *told)
    assert changed.code == 0, changed
    assert "finetune.learning_rate = 0.5 (was 4e-05)" in changed.out
    assert f"prepare: {CURRENT}" in changed.out
    assert parents(toy)[1].data.tags["stage.prepare"] == made_prepare
    state = registry(toy)
    versions = {alias: state.get(alias).version for alias in (CHAMPION, PREVIOUS)}
    assert versions == {CHAMPION: "2", PREVIOUS: "1"}

    # What a person took back stays back, whoever runs next with nothing changed: a person here, or the schedule.
    back = toy.run("rollback", "--reason", "it shouts")
    assert (back.code, registry(toy).get(CHAMPION).version) == (0, "1"), back
    before = counts(toy)
    unchanged = toy.run("run")
    assert unchanged.code == 0, unchanged
    assert "version 2 of movie-reviews was rolled back by" in unchanged.out
    for _ in range(2):
        scheduled = [sys.executable, "-c", "from flows.engine.prefect_flow import potstill; potstill()"]
        subprocess.run(scheduled, cwd=toy.folder, env=toy.variables, check=True, capture_output=True)
    assert flow_runs(toy)[-1].state.name == "HeldBack"
    assert (registry(toy).get(CHAMPION).version, counts(toy)) == ("1", before)
    assert toy.run("approve", "2").code == 0

    refused = toy.run("run", "--set", "gate.min_speedup=100", "--set", "finetune.learning_rate=0.7")
    assert refused.code == 7
    assert "is 94x below its minimum of 100x (gate.min_speedup)" in refused.err
    assert "version 2 stays the champion" in refused.err
    assert "Traceback" not in refused.out + refused.err
    assert_state(toy, "Refused", "COMPLETED", refused.err)
    assert task_states(toy)["gate"] == "Refused"
    assert "Gate: refused: " in artifacts_of(toy, flow_runs(toy)[-1])["movie-reviews-candidate"]
    assert registry(toy).get(CHAMPION).version == "2"
    before = counts(toy)
    again = toy.run("run")
    assert (again.code, again.err) == (7, refused.err)
    assert counts(toy) == before
    facts = json.loads(toy.run("status", "--json").out)
    assert facts["stages"] == dict.fromkeys(STAGES, "current")
    assert facts["versions"]["champion"]["version"] == "2"
    assert facts["gate"].startswith("refused")
    assert receiver.events() == ["promotion"] * 3 + ["refusal"] * 2
    assert receiver.messages[0]["text"] == "version 2 of movie-reviews is the champion"
    assert receiver.messages[1]["text"].endswith(": it shouts")
    assert f"potstill: {receiver.messages[-1]['text']}\n" == refused.err


def test_a_person_approves_or_vetoes(toy: Toy, receiver: Webhook) -> None:
    waiting = toy.run("run", "--set", "promote.policy=person", "--set", f'notify.webhooks=["{receiver.url}"]')
    assert waiting.code == 8, waiting
    assert "potstill approve 1" in waiting.err
    assert_state(toy, "ApprovalPending", "COMPLETED", waiting.err)
    assert registry(toy).champion() is None
    assert registry(toy).get(CHALLENGER).version == "1"
    before = counts(toy)
    again = toy.run("run")
    assert (again.code, counts(toy)) == (8, before)
    assert toy.run("approve", "9").code == 50
    approved = toy.run("approve", "1")
    assert approved.code == 0, approved
    assert registry(toy).get(CHAMPION).version == "1"
    assert toy.run("run").code == 0
    vetoed = toy.run("veto", "1", "--reason", "it shouts")
    assert vetoed.code == 0, vetoed
    assert registry(toy).champion() is None
    refused = toy.run("run")
    assert refused.code == 50
    assert "was vetoed (it shouts)" in refused.err
    assert receiver.events() == ["approval_pending", "approval_pending", "promotion", "promotion"]


def test_a_failing_stage_ends_the_run_with_its_code_and_one_sentence(toy: Toy, receiver: Webhook) -> None:
    failed = toy.run("run", "--set", 'notify.webhooks=["${HOOK}"]', TOY_FAIL="export", HOOK=receiver.url)
    assert failed.code == 22
    assert failed.err == "export: row 7 has the label 'maybe'; allowed are negative, positive\n"
    assert "Traceback" not in failed.out
    assert_state(toy, "Failed", "FAILED", failed.err.replace("export: ", "potstill: ", 1))
    assert task_states(toy)["export"] == "Failed"
    assert [run.info.status for run in parents(toy)] == ["FAILED"]
    # The next run goes on with that stage; what it says is not what the last one left.
    again = toy.run("run", TOY_FAIL="evaluate")
    assert again.code == 22
    assert again.err == (
        failed.err.replace("export: ", "evaluate: ", 1)
        + "notify: notify.webhooks.0 was not told of the failure: the environment has no HOOK\n"
    )
    assert [f"export: {message['text']}\n" for message in receiver.messages] == [failed.err]


def triggered(toy: Toy, *calls: str, **more: str) -> list[list[str]]:
    """Name and message of the state in which each call of a flow of prefect.yaml ends."""
    code = (
        "import json; from flows.commands.triggered_runs import *; "
        f"print(json.dumps([[state.name, state.message] for state in [{', '.join(calls)}]]))"
    )
    command, variables = [sys.executable, "-c", code], toy.variables | more
    done = subprocess.run(command, cwd=toy.folder, env=variables, check=True, capture_output=True, text=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_a_triggered_run_says_why_it_ran_or_not(toy: Toy, receiver: Webhook) -> None:
    settings = ["smoke.texts=3", f'notify.webhooks=["{receiver.url}"]']
    states = triggered(
        toy,
        f"run_with_settings({settings!r}, return_state=True)",
        "run_on_new_data(return_state=True)",
        "run_with_settings(['smoke.txts=4'], return_state=True)",
        "run_on_drift(return_state=True)",
        TOY_FAIL="prepare",
    )
    assert [name for name, _ in states] == ["Failed"] * 4
    manual, new_data, wrong, drift = [message for _, message in states]
    assert manual == new_data == "row 7 has the label 'maybe'; allowed are negative, positive"
    assert [message["text"] for message in receiver.messages] == [manual] * 2
    assert "texts: 3" in (toy.folder / "params.yaml").read_text(encoding="utf-8")
    assert "unknown key 'smoke.txts'" in wrong
    assert "has no champion yet" in drift


def test_one_run_at_a_time_and_ctrl_c_ends_all(toy: Toy) -> None:
    going = toy.start("run", TOY_HANG="export")
    assert until((toy.folder / ".work/hanging").exists)
    busy = toy.run("run")
    assert busy.code == 4
    assert str(going.pid) in busy.err
    going.send_signal(signal.SIGINT)
    interrupted = ended(going)
    assert interrupted.code == 130, interrupted
    assert "Traceback" not in interrupted.out + interrupted.err
    assert toy.nothing_runs(), toy.processes()
    assert {run.info.status for run in runs(toy)} <= {"FINISHED", "KILLED"}
    assert flow_runs(toy)[-1].state.is_final()


def test_past_its_limit_a_stage_a_step_or_the_run_is_ended_with_all_it_started(toy: Toy) -> None:
    late = toy.run("run", "--set", "schedule.stage_minutes=0.5", TOY_HANG="prepare")
    assert late.code == 6
    # Its limit is long enough for the stage to be at work and to say, when it is ended, that it was interrupted.
    assert (toy.folder / ".work/hanging").exists()
    assert "stage prepare ran past its limit of 0.5 minutes" in late.err
    late = toy.run("run", "--set", "schedule.run_minutes=0.001")
    assert late.code == 6
    assert "the run, at stage prepare, ran past its limit of 0.001 minutes" in late.err
    late = toy.run("run", "--set", "schedule.run_minutes=null", "--set", "schedule.step_minutes=0.001")
    assert late.code == 6
    assert "step gate ran past its limit of 0.001 minutes" in late.err
    assert task_states(toy)["gate"] == "Failed"
    assert toy.nothing_runs(), toy.processes()


def test_after_kill_9_nothing_is_left_running_and_the_next_run_finishes(toy: Toy, receiver: Webhook) -> None:
    going = toy.start("run", "--set", f'notify.webhooks=["{receiver.url}"]', TOY_HANG="export")
    assert until((toy.folder / ".work/hanging").exists)
    assert until(lambda: parents(toy))
    os.kill(going.pid, signal.SIGKILL)
    ended(going)
    assert toy.nothing_runs(), toy.processes()
    assert flow_runs(toy)[-1].state.is_running()
    finished = toy.run("run")
    assert finished.code == 0, finished
    states = [run.state.type.value for run in flow_runs(toy)]
    assert states == ["CRASHED", "COMPLETED"]
    assert sorted(run.info.status for run in parents(toy)) == ["FINISHED", "KILLED"]
    assert "RUNNING" not in {run.info.status for run in runs(toy)}
    assert receiver.events() == ["failure", "promotion"]
    assert "The process was killed" in receiver.messages[0]["text"]


def test_a_killed_run_leaves_no_temporary_api(offline_toy: Toy) -> None:
    going = offline_toy.start("run", TOY_HANG="prepare")
    assert until((offline_toy.folder / ".work/hanging").exists)
    assert any("prefect.server.api.server" in command for command in offline_toy.processes())
    os.kill(going.pid, signal.SIGKILL)
    ended(going)
    assert offline_toy.nothing_runs(), offline_toy.processes()


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
def test_a_run_in_a_moved_workspace_corrects_the_names_in_mlflow(
    offline_toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_version(registry(offline_toy), "one")
    moved = offline_toy.folder.rename(tmp_path / "moved")
    with open_run(moved):
        assert f"the workspace was moved here from {offline_toy.folder}" in capsys.readouterr().out
        assert moved_from(moved) == []
    assert tracking.client(moved).get_model_version("movie-reviews", "1").source.startswith(moved.as_uri())
