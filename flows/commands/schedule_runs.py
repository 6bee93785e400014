"""`potstill schedule`: runs a workspace by the cron schedule of its params."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from flows.engine.lost_runs import HEARTBEAT_SECONDS, HEARTBEAT_VARIABLE
from flows.engine.prefect_server import Server, start_server, wait_ready, workspace_tag
from potstill.compute.processes import listen, stop
from potstill.config.params_file import load_params
from potstill.config.promotion_params import Schedule as ScheduleParams
from potstill.errors import ParamsError
from potstill.paths import PARAMS
from potstill.progress import say

if TYPE_CHECKING:
    from prefect.schedules import Schedule

DEPLOYMENT = "scheduled"
HOST = "127.0.0.1"


def serve_schedule(workspace: Path) -> None:
    """Register the deployment and run it whenever it is due, until the command is ended.

    Args:
        workspace: the current folder.

    Raises:
        ParamsError: params.yaml is not valid, or its cron or time zone do not exist.
        ToolError: no Prefect server answers.
    """
    params = load_params(workspace / PARAMS)
    schedule = _prefect_schedule(params.schedule)
    os.environ.setdefault(HEARTBEAT_VARIABLE, str(HEARTBEAT_SECONDS))  # of the runs, which are child processes
    with _open_api(params.servers.prefect_port) as server:
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
        from prefect.types.entrypoint import EntrypointType

        from flows.engine.prefect_flow import potstill

        wait_ready(server)
        say(f"schedule: {params.schedule.cron} ({params.schedule.timezone}); Ctrl-C ends it")
        potstill.serve(
            name=DEPLOYMENT,
            schedule=schedule,
            parameters={"workspace": str(workspace)},
            tags=[workspace_tag(workspace)],
            entrypoint_type=EntrypointType.MODULE_PATH,
            print_starting_message=False,
            limit=1,
            # `limit` holds for this process; this one for every scheduler of the deployment. A run that comes due
            # while another goes on is cancelled: that one does its work.
            global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        )


def _prefect_schedule(schedule: ScheduleParams) -> Schedule:
    from prefect.schedules import Cron

    try:
        ZoneInfo(schedule.timezone)
        return Cron(schedule.cron, timezone=schedule.timezone)
    except (ValueError, KeyError) as error:
        raise ParamsError(
            f"schedule.cron {schedule.cron!r} with schedule.timezone {schedule.timezone!r} is no schedule; "
            "give five fields of cron and a time zone such as Europe/Berlin"
        ) from error


def prefect_api(port: int) -> tuple[str, int | None]:
    """Return the URL of the API that a schedule uses, and the port of the server that it starts.

    Args:
        port: the port of a server that is started; the second value is None where the API is a configured one.
    """
    from prefect.settings import get_current_settings

    configured = get_current_settings().api.url
    return (f"http://{HOST}:{port}/api", port) if configured is None else (configured, None)


def is_scheduled(api: str) -> bool:
    """Whether the Prefect server at a URL answers, and a scheduler has registered the deployment and goes on."""
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        try:
            # A scheduler that ends pauses it.
            return not client.read_deployment_by_name(f"potstill/{DEPLOYMENT}").paused
        except (ObjectNotFound, HTTPError):
            return False


@contextmanager
def _open_api(port: int) -> Iterator[Server]:
    """Use the configured Prefect API, else that of a full server, whose services schedules need, inside the context."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url, local_port = prefect_api(port)
    if local_port is None:
        yield None
        return
    listen(HOST, port, advice=f"if that is a Prefect server, set PREFECT_API_URL={url}").close()
    command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    process = start_server(command, {"PREFECT_API_URL": url})
    try:
        # The runs are processes of their own and find the server by the environment.
        os.environ["PREFECT_API_URL"] = url
        with temporary_settings({PREFECT_API_URL: url}):
            say(f"schedule: the runs are at http://{HOST}:{port}")
            yield process
    finally:
        stop(process)
