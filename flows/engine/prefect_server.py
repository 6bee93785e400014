"""The Prefect API a run talks to: the one that is configured, else one of its own for as long as it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.compute.processes import free_port, start, stop
from potstill.errors import ToolError

if TYPE_CHECKING:
    from uuid import UUID

# How Prefect itself starts its temporary server (prefect.server.api.server.SubprocessASGIServer); that one would stay
# behind when the run is killed, this one dies with it.
_COMMAND = ["-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
LOG = Path(".work/logs/prefect.txt")
# How long a server that was configured, and so should be running, may take to answer.
CONFIGURED_SECONDS = 15.0
_EPHEMERAL = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


def quiet_console() -> None:
    """Keep Prefect's log lines off the terminal, where the stages speak; its page shows them. Before its import."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    os.environ.setdefault("PREFECT_CLI_COLORS", "false")


@dataclass(frozen=True)
class Api:
    """The Prefect API of a run; `process` is the server where it is one of our own, whose output is in `LOG`."""

    process: subprocess.Popen[bytes] | None

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            ToolError: it ended, or does not answer in time.
        """
        from prefect.settings import get_current_settings

        settings = get_current_settings()
        url = settings.api.url
        own = self.process is not None
        end = time.monotonic() + (settings.server.ephemeral.startup_timeout_seconds if own else CONFIGURED_SECONDS)
        while not _answers(f"{url}/health"):
            if self.process is not None and self.process.poll() is not None:
                raise ToolError(f"the Prefect server did not start; {LOG} says why, `potstill doctor` what is missing")
            if time.monotonic() > end:
                advice = (
                    f"{LOG} has its output" if own else "start it (`prefect server start`) or unset PREFECT_API_URL"
                )
                raise ToolError(f"the Prefect API at {url} does not answer; {advice}")
            time.sleep(0.1)


@contextmanager
def api() -> Iterator[Api]:
    """Have a Prefect API for the block: the configured one, else a temporary one; not yet ready.

    Importing Prefect and starting a server both take seconds, so the server starts before the settings are read, and
    is ended at once where they name another.
    """
    port = free_port()
    command = [*_COMMAND, "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    process = None if "PREFECT_API_URL" in os.environ else start_server(command, _EPHEMERAL)
    try:
        from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

        if process is None or get_current_settings().api.url is not None:
            yield Api(None)
            return
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            try:
                yield Api(process)
            finally:
                _flush()
    finally:
        if process is not None:
            stop(process)


def start_server(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server as a child that dies with this process.

    Args:
        command: arguments of this Python.
        environment: variables beside this process's own.
    """
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        command = [sys.executable, *command]
        return start(command, environment={**os.environ, **environment}, stdout=log, stderr=log)


def _flush() -> None:
    """Send what Prefect still holds back; it would wait for a minute at exit for a server that is gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=5)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def workspace_tag(workspace: Path) -> str:
    """The tag by which a workspace finds its own flow runs."""
    return f"workspace:{workspace}"


def crash_stale_runs(workspace: Path, own: UUID | None) -> int:
    """Set this workspace's Prefect runs that a kill left Running to Crashed; call it with the run lock held.

    Args:
        workspace: the workspace.
        own: the flow run that goes on.

    Returns:
        How many there were.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    alive = {"type": {"any_": [StateType.RUNNING, StateType.CANCELLING]}}
    mine = FlowRunFilter.model_validate({"tags": {"all_": [workspace_tag(workspace)]}, "state": alive})
    message = "The process was killed; noticed at the start of the next run."
    with get_client(sync_client=True) as client:
        stale = [run for run in client.read_flow_runs(flow_run_filter=mine) if run.id != own]
        for run in stale:
            for task_run in _running_tasks(run.id):
                client.set_task_run_state(task_run, Crashed(message=message), force=True)
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
        if own is not None:
            client.update_flow_run(own, tags=[*client.read_flow_run(own).tags, workspace_tag(workspace)])
    return len(stale)


def _running_tasks(flow_run: UUID) -> list[UUID]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.objects import StateType

    of_run = FlowRunFilter.model_validate({"id": {"any_": [flow_run]}})
    running = TaskRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}}})
    with get_client(sync_client=True) as client:
        return [run.id for run in client.read_task_runs(flow_run_filter=of_run, task_run_filter=running)]
