"""Stages of a run on other work pools of Prefect (`schedule.pools`), as the run itself sees them.

A worker of the pool takes what `Part` names, clones the commit and runs the stages there (`pool_flow`). Data moves
through DVC's remote and records through MLflow. After each stage dvc.lock comes back as a Prefect artifact, so that
what is finished is kept however the rest ends. No file system is shared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from httpx import HTTPError, TransportError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import ArtifactSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runtime import flow_run
from prefect.states import Cancelling

from flows.engine.flow_errors import ElsewhereError
from flows.engine.lost_runs import HEARTBEAT_SECONDS, HEARTBEAT_VARIABLE
from flows.engine.pipeline_run import Run
from flows.engine.prefect_server import wait_ready
from flows.engine.remotes import ORIGIN, Remotes
from potstill.artifacts import write_text
from potstill.environment import PREFECT_CLIENT
from potstill.errors import (
    LostProcessError,
    ParamsError,
    PotstillError,
    PublishError,
    ToolError,
    redacted,
    without_user,
)
from potstill.paths import ACCEPTED_PROFILE, DVC_FILE, DVC_LOCK, METRICS, PARAMS, SOURCES
from potstill.progress import say
from potstill.registry import tracking
from potstill.registry.store_calls import RUN

FLOW = "potstill-stages"
KEY = "schedule.pools"
RETRY = "correct the remote or its credentials, and run again"
_ENTRYPOINT = "flows.engine.pool_flow.run_part"
_POLL_SECONDS = 2.0
# Files that every run reads: a commit without them is none of this workspace.
_READ = [path.as_posix() for path in (PARAMS, DVC_FILE, ACCEPTED_PROFILE)]
# Files that a run writes itself: that they differ from the commit does no harm.
_WRITTEN = {path.as_posix() for path in (DVC_LOCK, METRICS, SOURCES)}


@dataclass(frozen=True)
class Part:
    """Stages that a worker is to run, and what it needs for that.

    Attributes:
        project: name of the project.
        repository: URL of the git repository.
        folder: the workspace in it; empty for its top.
        commit: the commit to run.
        lock: content of dvc.lock.
        stages: in their order.
        parent: id of the pipeline's run in MLflow.
        past_minutes: minutes since the run began.
    """

    project: str
    repository: str
    folder: str
    commit: str
    lock: str
    stages: list[str]
    parent: str
    past_minutes: float


def placed_stages(run: Run) -> dict[str, str]:
    """Return stage -> work pool, of the stages that run on another pool than the run itself.

    Raises:
        ParamsError: `schedule.pools` names what is no stage, or one whose outs cannot move.
        PublishError: there is no remote of git or DVC, or files differ from the commit.
        ToolError: there is no MLflow server, or no such pool.
    """
    pools = run.params.schedule.pools
    if not pools:
        return {}
    with get_client(sync_client=True) as client:
        home = client.read_flow_run(UUID(flow_run.id)).work_pool_name
    for pool, stages in pools.items():
        _check_stages(run, pool, stages, moved=pool != home)
    pool_of = {stage: pool for pool, stages in pools.items() if pool != home for stage in stages}
    used = {pool_of[stage]: None for stage in run.graph.stale() if stage in pool_of}
    if used:
        _check_ways(run.workspace)
    for pool in used:
        _register(pool)
    return pool_of


def _check_stages(run: Run, pool: str, stages: Iterable[str], *, moved: bool) -> None:
    for stage in stages:
        if stage not in run.graph.order:
            stages_of_graph = ", ".join(run.graph.order)
            raise ParamsError(
                f"{KEY}.{pool} names {stage!r}, which is no stage of dvc.yaml; its stages are {stages_of_graph}"
            )
        if moved and stage in run.graph.uncached:
            raise ParamsError(
                f"{KEY}.{pool} names {stage}, which writes a file that DVC does not keep (cache: false) and so cannot "
                "move; take the stage out"
            )


def _check_ways(workspace: Path) -> None:
    """Check the ways on which code, data and records move."""
    remotes = Remotes(workspace, KEY)
    remotes.check()
    advice = "make it possible"
    edited = remotes.git("diff", "--name-only", "--relative", "HEAD", "--", ".", advice=advice).splitlines()
    changed = [name for name in edited if name not in _WRITTEN and not name.endswith(".gitignore")]
    changed += remotes.git("ls-files", "--others", "--exclude-standard", "--", *_READ, advice=advice).splitlines()
    if changed:
        raise PublishError(
            f"{KEY}: {', '.join(changed)} in {workspace} differs from the commit, which is what workers run; commit it "
            "and push"
        )
    check_mlflow_server(workspace)


def check_mlflow_server(workspace: Path) -> None:
    """Check that records go to a server and not to a file of this machine.

    Raises:
        ToolError: they do not.
    """
    store = tracking.store_file(workspace)
    if store is not None:
        raise ToolError(
            f"{KEY} needs an MLflow server that all machines use, but this one records in {store}; set "
            "servers.mlflow_url or MLFLOW_TRACKING_URI"
        )


def _register(pool: str) -> None:
    """Register the pool's deployment, unless it is there: its job variables may have been changed since."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            raise ToolError(
                f"{KEY} names {pool}, but the Prefect server at {redacted(str(client.api_url))} has no such work pool; "
                f"name the team's server (servers.prefect_url), or `prefect work-pool create {pool} --type process`"
            ) from None
        try:
            if client.read_deployment_by_name(f"{FLOW}/{pool}").work_pool_name == pool:
                return
        except ObjectNotFound:
            pass
        client.create_deployment(
            client.create_flow_from_name(FLOW),
            pool,
            description=f"Stages that {KEY} places on {pool}; started by runs.",
            work_pool_name=pool,
            entrypoint=_ENTRYPOINT,
            enforce_parameter_schema=False,
            job_variables={"env": {HEARTBEAT_VARIABLE: str(HEARTBEAT_SECONDS), **PREFECT_CLIENT}},
        )


def run_on_pool(run: Run, pool: str, stages: list[str]) -> None:
    """Have a worker of a pool run stages, and bring their outs here.

    Raises:
        ElsewhereError: a stage failed there, or what surrounds it.
        LostProcessError: no worker has taken them in time, or it was lost.
        TimeLimitError: the run went past its limit.
        PublishError: a remote refuses.
        ToolError: what came back is not of this workspace's code.
    """
    run.check_early(stages[0])
    needed = run.graph.needed(stages)
    if needed:
        run.transfer("push", push_outs, run.workspace, needed)
    started: FlowRun = run_deployment(  # type: ignore[assignment]  # not awaited here
        f"{FLOW}/{pool}", parameters={"part": asdict(_part(run, stages))}, timeout=0
    )
    say(f"{', '.join(stages)}: handed to work pool {pool} (run {started.name})")
    state = _wait(run, pool, stages, started.id)
    handed_back = _handed_back(started.id)
    finished = [each["stage"] for each in handed_back if "stage" in each]
    if finished:
        write_text(run.workspace / DVC_LOCK, handed_back[len(finished) - 1]["lock"])
        run.transfer("pull", pull_outs, run.workspace, finished)
        run.graph.forget()
        say(f"{', '.join(finished)}: run on work pool {pool}")
    unfinished = [stage for stage in stages if stage not in finished]
    _raise_failure(_subject(unfinished[:1] or stages, pool), state, handed_back, started.name)
    stale = [stage for stage in run.graph.stale() if stage in stages]
    if stale:
        raise ToolError(
            f"{_subject(stale, pool)}: what came back is not of this workspace's code; have Potstill and Python there "
            "in the same version as here"
        )


def _subject(stages: Iterable[str], pool: str) -> str:
    return f"{', '.join(stages)} on work pool {pool}"


def _part(run: Run, stages: list[str]) -> Part:
    git = Remotes(run.workspace, KEY).git
    url = git("remote", "get-url", ORIGIN, advice=RETRY)
    if urlsplit(url).scheme in ("http", "https"):  # a worker has its own user and password
        url = without_user(url)
    lock = run.workspace / DVC_LOCK
    return Part(
        project=run.params.project.name,
        repository=url,
        folder=git("rev-parse", "--show-prefix", advice=RETRY),
        commit=git("rev-parse", "HEAD", advice=RETRY),
        lock=lock.read_text(encoding="utf-8") if lock.exists() else "",
        stages=stages,
        parent=run.recorder.parent(),
        past_minutes=run.past_minutes,
    )


def push_outs(workspace: Path, stages: list[str]) -> None:
    """Push the outs of stages to DVC's remote.

    Raises:
        PublishError: it refuses.
    """
    Remotes(workspace, KEY).dvc("push", *stages, advice=RETRY)


def pull_outs(workspace: Path, stages: list[str]) -> None:
    """Pull the outs of stages from DVC's remote, in the place of those that are here.

    Raises:
        PublishError: it refuses.
    """
    Remotes(workspace, KEY).dvc("pull", "--force", *stages, advice=RETRY)


# --- the run of the worker --------------------------------------------------------------------------------------------


def _wait(run: Run, pool: str, stages: list[str], run_id: UUID) -> State[Any]:
    """Return the state in which a worker's run has ended; what ends this wait cancels it.

    Raises:
        LostProcessError: it was not begun in time, or deleted.
        TimeLimitError: the whole run went past its limit.
    """
    begin = time.monotonic()
    minutes = run.params.schedule.wait_minutes
    subject = _subject(stages, pool)
    limit = run.whole_limit(subject)
    with get_client(sync_client=True) as client, _cancelled_on_error(client, run_id):
        while True:
            try:
                state = _state(client, run_id)
            except ObjectNotFound:
                raise LostProcessError(f"{subject}: its run was deleted in Prefect; run again") from None
            if state.is_final():
                return state
            waited = time.monotonic() - begin
            if waited > 60 * minutes and (state.is_scheduled() or state.is_pending()):
                raise LostProcessError(
                    f"no worker has begun {subject} within {minutes:g} minutes; start one "
                    f"(`prefect worker start --pool {pool}`), or raise schedule.wait_minutes where all are at work"
                )
            if limit is not None and waited > limit.seconds:
                raise limit.error()
            time.sleep(_POLL_SECONDS)


@contextmanager
def _cancelled_on_error(client: SyncPrefectClient, run_id: UUID) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(HTTPError, PrefectException):  # what ended the wait is told, not this
            client.set_flow_run_state(run_id, Cancelling())
        raise


def _state(client: SyncPrefectClient, run_id: UUID) -> State[Any]:
    """Read a state; a server that is away is waited for, as the worker does."""
    while True:
        try:
            state = client.read_flow_run(run_id).state
        except TransportError:
            wait_ready(None, RUN.seconds)
        else:
            assert state is not None
            return state


def _handed_back(run_id: UUID) -> list[dict[str, Any]]:
    """Return what a worker has handed back, in order: `stage` and `lock`, or at the end `exit_code` and `message`."""
    of_run = ArtifactFilter.model_validate({"flow_run_id": {"any_": [run_id]}, "type": {"any_": ["table"]}})
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(artifact_filter=of_run, sort=ArtifactSort.CREATED_DESC)
    return [row for artifact in reversed(artifacts) for row in json.loads(str(artifact.data))]


def _raise_failure(subject: str, state: State[Any], handed_back: Iterable[Mapping[str, Any]], name: str) -> None:
    """Raise the error in which a worker's run has ended, if it has."""
    for each in handed_back:
        if "exit_code" in each:
            raise ElsewhereError(f"{subject}: {each['message']}", each["exit_code"])
    if not state.is_completed():
        kind = LostProcessError if state.is_crashed() else PotstillError
        raise kind(
            f"{subject} ended as {state.name} ({state.message}); Prefect's page of the run {name} has its log; run "
            "again, what is finished is kept"
        )
