"""The Prefect API that a run uses: the configured one, else a temporary server of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from flows.engine.lost_runs import LOST
from flows.engine.notifications import notify
from potstill.compute.processes import free_port, start, stop
from potstill.errors import ToolError, redacted, without_user
from potstill.paths import LOGS
from potstill.progress import say

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.filters import FlowRunFilter

# As Prefect itself starts its temporary server (prefect.server.api.server.SubprocessASGIServer), which would outlive a
# run that is killed. This one dies with the run.
_COMMAND = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
LOG = LOGS / "prefect.txt"
# How long a configured server, which should be running already, may take to answer.
CONFIGURED_SECONDS = 15.0
_NOTICE_SECONDS = 10.0
_EPHEMERAL = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


def quiet_console() -> None:
    """Keep Prefect's log lines off the terminal; its page shows them. To be called before Prefect is imported."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    os.environ.setdefault("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_COLORS", "false")


# The temporary server of a run, whose output is in `LOG`; None where the API is a configured one.
Server = subprocess.Popen[bytes] | None


def wait_ready(server: Server, configured_seconds: float = CONFIGURED_SECONDS) -> None:
    """Wait until the API of a run answers.

    Args:
        server: the temporary server; None for the configured one.
        configured_seconds: how long the configured one may take to answer.

    Raises:
        ToolError: the server ended, does not answer in time, or refuses the user.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    url = settings.api.url
    if server is None:
        limit_seconds = configured_seconds
        advice = "start it (`prefect server start`), or unset PREFECT_API_URL or servers.prefect_url"
    else:
        limit_seconds = settings.server.ephemeral.startup_timeout_seconds
        advice = f"{LOG} has its output"
    begin = time.monotonic()
    is_noticed = False
    while not answers(f"{url}/health"):
        if server is not None and server.poll() is not None:
            raise ToolError(f"the Prefect server did not start; {LOG} says why, `potstill doctor` what is missing")
        waited = time.monotonic() - begin
        if waited > limit_seconds:
            raise ToolError(f"the Prefect API at {redacted(str(url))} does not answer; {advice}")
        if waited > _NOTICE_SECONDS and not is_noticed:
            say(f"waiting for the Prefect API at {redacted(str(url))}")
            is_noticed = True
        time.sleep(0.1)
    if server is None:
        _check_access(str(url))


def _check_access(url: str) -> None:
    """Check that a configured API lets this user in; its health is shown to everybody."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    with get_client(sync_client=True) as client:
        try:
            client.hello()
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            if status not in (401, 403):
                raise
            raise ToolError(
                f"the Prefect API at {redacted(url)} refuses this user (status {status}); check "
                "PREFECT_API_AUTH_STRING, or PREFECT_API_KEY"
            ) from error


@contextmanager
def open_api() -> Iterator[Server]:
    """Use the configured Prefect API, else that of a temporary server, inside the context; it is not ready yet.

    Importing Prefect and starting a server both take seconds. So the server starts before the settings are read, and
    ends at once where they name another one.
    """
    port = free_port()
    command = [*_COMMAND, "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    process = None if "PREFECT_API_URL" in os.environ else start_server(command, _EPHEMERAL)
    try:
        from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

        if process is None or get_current_settings().api.url is not None:
            yield None
            return
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            try:
                yield process
            finally:
                _flush()
    finally:
        if process is not None:
            stop(process)


def start_server(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server as a child that dies with this process.

    Args:
        command: arguments of this Python.
        environment: variables in addition to this process's own.
    """
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        command = [sys.executable, *command]
        return start(command, environment={**os.environ, **environment}, stdout=log, stderr=log)


def _flush() -> None:
    """Send the events that Prefect still holds; at exit it would wait a minute for a server that is gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=5)


def answers(url: str) -> bool:
    """Whether a server answers there with 200; a user and a password of the URL, which urllib cannot read, stay out."""
    try:
        with urllib.request.urlopen(without_user(url), timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException, ValueError):  # away, no HTTP, no URL
        return False


def workspace_tag(workspace: Path) -> str:
    """Return the tag by which a workspace finds its own flow runs."""
    return f"workspace:{workspace}"


def _unfinished(workspace: Path) -> FlowRunFilter:
    """Select the flow runs of a workspace that Prefect takes for going on, or that the server has lost."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType

    going_on = {"type": {"any_": [StateType.RUNNING, StateType.CANCELLING]}}
    unfinished = going_on | {"name": {"any_": [LOST]}, "operator": "or_"}
    return FlowRunFilter.model_validate({"tags": {"all_": [workspace_tag(workspace)]}, "state": unfinished})


def active_runs(workspace: Path) -> list[str] | None:
    """Name the flow runs of a workspace that a configured Prefect server takes for going on or lost; None without one.

    Raises:
        ToolError: the server does not answer.
    """
    quiet_console()
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        return None
    wait_ready(None, configured_seconds=2.0)
    with get_client(sync_client=True) as client:
        return [run.name for run in client.read_flow_runs(flow_run_filter=_unfinished(workspace))]


def crash_stale_runs(workspace: Path, current: UUID | None) -> None:
    """Set this workspace's Prefect runs that a kill ended to Crashed, and tell of them; call it with the run lock held.

    Args:
        workspace: the workspace.
        current: the flow run that goes on.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    active = TaskRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}}})
    message = "The process was killed; noticed at the start of the next run."
    with get_client(sync_client=True) as client:
        stale = [run for run in client.read_flow_runs(flow_run_filter=_unfinished(workspace)) if run.id != current]
        for run in stale:
            of_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
            for task_run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=active):
                client.set_task_run_state(task_run.id, Crashed(message=message), force=True)
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            notify(workspace, "failure", f"run {run.name}: {message}")
        if current is not None:
            client.update_flow_run(current, tags=[*client.read_flow_run(current).tags, workspace_tag(workspace)])
