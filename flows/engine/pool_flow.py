"""The flow that a worker of another pool runs: stages of a run, in a clone on the worker's machine."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed

from flows.engine.lost_runs import crash_silent_runs
from flows.engine.pipeline_run import open_part
from flows.engine.prefect_flow import in_task
from flows.engine.prefect_server import wait_ready
from flows.engine.prefect_states import log_sentences, state_of
from flows.engine.remotes import Remotes
from flows.engine.work_pools import FLOW, KEY, Part, check_mlflow_server, pull_outs, push_outs
from potstill.artifacts import write_text
from potstill.compute.processes import hold
from potstill.errors import PotstillError
from potstill.paths import DVC_LOCK, KEPT_LOCK
from potstill.registry.store_calls import RUN


@flow(name=FLOW, persist_result=False)
def run_part(part: Part) -> State[PotstillError | None]:
    """Run stages of a run that goes on elsewhere.

    They run in a clone in the worker's folder, which later runs use again if the folder stays.
    """
    log_sentences()
    if deployment.id:
        crash_silent_runs(deployment.id, flow_run.id)
    folder = Path.cwd() / part.project
    try:
        with hold(folder / ".work" / "part.lock", what="a part of another run"):
            os.chdir(_check_out(folder / "clone", part))
            _run(Path.cwd(), part)
    except PotstillError as error:
        _hand_back(exit_code=error.exit_code, message=str(error))
        return state_of(error)
    return Completed(message=f"{', '.join(part.stages)}: run")


def _check_out(clone: Path, part: Part) -> Path:
    """Bring a clone to the commit and its dvc.lock to the run's, and return the workspace in it.

    Raises:
        PublishError: git refuses.
    """
    clone.mkdir(exist_ok=True)
    for lock in (clone / ".git").glob("*.lock"):  # of a git that was killed with its worker: this part holds the clone
        lock.unlink()
    git = Remotes(clone, KEY).git
    git("init", "--quiet", advice="make the folder writable")
    advice = "push the commit, and give this machine access to the repository"
    git("fetch", "--quiet", "--depth=1", part.repository, part.commit, advice=advice)
    git("checkout", "--quiet", "--force", "--detach", part.commit, advice="remove the clone")
    workspace = clone / part.folder
    (workspace / KEPT_LOCK).unlink(missing_ok=True)  # of a stage that was killed in an earlier part
    if part.lock:
        write_text(workspace / DVC_LOCK, part.lock)
    else:
        (workspace / DVC_LOCK).unlink(missing_ok=True)
    return workspace


def _run(workspace: Path, part: Part) -> None:
    with open_part(workspace, part.parent, part.past_minutes) as run:
        check_mlflow_server(workspace)
        needed = run.graph.needed(part.stages)
        if needed:
            run.transfer("pull", pull_outs, workspace, needed)
        for name in part.stages:
            in_task(name, partial(run.execute, name))
            run.transfer("push", push_outs, workspace, [name])
            _hand_back(stage=name, lock=(workspace / DVC_LOCK).read_text(encoding="utf-8"))


def _hand_back(**facts: str | int) -> None:
    wait_ready(None, RUN.seconds)
    create_table_artifact([facts])
