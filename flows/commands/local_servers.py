"""`potstill up` and `potstill down`: the servers that a single machine needs, started, watched and ended together.

A server goes on when the command has ended. Its processes are known by a random token in their environment, which their
children inherit, so that a process id that the system has given to another process is never mistaken for one of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil

from flows.commands.schedule_runs import HOST, is_scheduled, prefect_api
from flows.engine.champions import no_champion, open_registry
from flows.engine.prefect_server import answers
from potstill.artifacts import read_json, write_json
from potstill.compute.processes import hold, listen
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import RegistryError, ToolError, redacted
from potstill.paths import LOGS, PARAMS, SERVERS, SERVERS_LOCK
from potstill.registry import tracking

# Environment variable of the processes of a server.
TOKEN = "POTSTILL_SERVER"
READY_SECONDS = 180.0
# The service finishes the requests that it has begun.
STOP_SECONDS = 65.0
_NOTHING = "nothing is up in this workspace"


@dataclass(frozen=True)
class Server:
    """A server to start.

    Attributes:
        name: names it and its log.
        arguments: of this Python.
        port: loopback port that has to be free; None for a server elsewhere.
        url: the address to show.
        is_ready: whether it answers.
        variables: of its environment.
    """

    name: str
    arguments: Sequence[str]
    port: int | None
    url: str
    is_ready: Callable[[], bool]
    variables: dict[str, str]

    @property
    def log(self) -> Path:
        """The file with its output."""
        return LOGS / f"{self.name}.txt"


@dataclass(frozen=True)
class Started:
    """A server that was started: its first process, the token of all its processes, and its address.

    A record of an older Potstill has no address.
    """

    pid: int
    token: str
    url: str | None = None

    def processes(self) -> list[psutil.Process]:
        """The processes of the server that run now, from the first one on."""
        running = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(TOKEN) == self.token and process.status() != psutil.STATUS_ZOMBIE:
                    running.append(process)
            except psutil.Error:  # it has ended, or is another user's
                continue
        return running

    def runs(self) -> bool:
        """Whether its first process runs."""
        return any(process.pid == self.pid for process in self.processes())


def up(workspace: Path) -> None:
    """Start those servers that do not run yet, wait until all are ready, and show them.

    Raises:
        ParamsError: params.yaml is not valid.
        ToolError: a port is taken, or a server runs at another address than params name now; or one does not become
            ready, and those that were started are ended again.
        BusyError: another process starts or ends the servers.
    """
    params = load_params(workspace / PARAMS)
    with _held(workspace):
        servers, absent = _servers(workspace, params)
        running = _end_leftovers(workspace)
        _refuse_other_addresses(servers, running)
        if not tracking.has_store(workspace):
            tracking.client(workspace).search_experiments()  # a new store appears whole, unlike that of MLflow's server
        _start_missing(workspace, servers, running)
    for server in servers:
        print(f"{server.name:<9} {server.url}  (log: {server.log})")
    for name, reason in absent.items():
        print(f"{name:<9} {reason}")


def _end_leftovers(workspace: Path) -> dict[str, Started]:
    """Return the servers that run; of one whose first process has died, end what it has left."""
    recorded = _read(workspace)
    running = {name: started for name, started in recorded.items() if started.runs()}
    for name in recorded.keys() - running.keys():
        _stop(recorded[name])
    return running


def _refuse_other_addresses(servers: Sequence[Server], running: dict[str, Started]) -> None:
    """Refuse to wait for a server at an address where it is not: the settings have changed since it was started."""
    for server in servers:
        started = running.get(server.name)
        if started is not None and started.url not in (None, server.url) and not server.is_ready():
            raise ToolError(
                f"{server.name} runs at {started.url}, and its address is {server.url} now; `potstill down`, then "
                "`potstill up` again"
            )


def _start_missing(workspace: Path, servers: Sequence[Server], running: dict[str, Started]) -> None:
    """Start those servers that do not run, and wait until all are ready; after an error end them again."""
    missing = [server for server in servers if server.name not in running]
    for server in missing:
        if server.port is not None:
            listen(HOST, server.port, advice=f"end what uses it, or give {server.name} another port").close()
    new: dict[str, Started] = {}
    try:
        for server in missing:
            new[server.name] = _start(workspace, server)
            _write(workspace, running | new)
        _wait_ready(workspace, servers, running | new)
    except BaseException:
        for started in new.values():
            _stop(started)
        _write(workspace, running)
        raise


def down(workspace: Path) -> None:
    """End the servers that `up` has started, with all their processes, and no others.

    Raises:
        BusyError: another process starts or ends the servers.
    """
    if not any((workspace / path).exists() for path in (SERVERS, SERVERS_LOCK)):  # it may be no workspace: make none
        print(_NOTHING)
        return
    with _held(workspace):
        started = _read(workspace)
        for name, each in started.items():
            print(f"{name:<9} {'ended' if _stop(each) else 'had ended already'}")
        if not started:
            print(_NOTHING)
        _write(workspace, {})


def status(workspace: Path) -> bool:
    """Show each server and whether it is ready.

    Returns:
        Whether all of them are.
    """
    servers, absent = _servers(workspace, load_params(workspace / PARAMS))
    started = _read(workspace)
    states = {server.name: _state(server, started.get(server.name)) for server in servers}
    for server in servers:
        print(f"{server.name:<9} {states[server.name]:<9} {server.url}  (log: {server.log})")
    for name, reason in absent.items():
        print(f"{name:<9} {reason}")
    return set(states.values()) == {"ready"}


def _state(server: Server, started: Started | None) -> str:
    if started is None:
        return "down"
    if not started.runs():
        return "has ended"
    return "ready" if server.is_ready() else "not ready"


# --- what there is to start -------------------------------------------------------------------------------------------


def _servers(workspace: Path, params: Params) -> tuple[list[Server], dict[str, str]]:
    """Return the servers to start, and for each that is not needed or not possible yet the reason."""
    absent = {}
    servers = [_schedule(*prefect_api(params.servers.prefect_port))]
    uri = tracking.tracking_uri(workspace)
    if uri.startswith(("http://", "https://")):
        absent["mlflow"] = "MLFLOW_TRACKING_URI or servers.mlflow_url names a server already"
    else:
        servers.append(_mlflow(params.servers.mlflow_port, uri))
    problem = _service_problem(workspace, params)
    if problem is None:
        servers.append(_service(params.serve.port))
    else:
        absent["service"] = f"not started: {problem}, then `potstill up` again"
    return servers, absent


def _service_problem(workspace: Path, params: Params) -> str | None:
    """Say why the service cannot be started yet, and what to do; None where it can."""
    if params.serve.port == 0:
        return "with serve.port 0 nobody would know its address; set a port"
    try:
        champion = open_registry(workspace, params, read_only=True).champion()
    except RegistryError as error:
        return str(error)
    return None if champion else str(no_champion(params))


def _schedule(api: str, port: int | None) -> Server:
    url = redacted(api.removesuffix("/api"))
    return Server("schedule", ["-m", "flows.cli", "schedule"], port, url, partial(is_scheduled, api), {})


def _mlflow(port: int, uri: str) -> Server:
    url = f"http://{HOST}:{port}"
    arguments = ["-m", "mlflow", "server", "--workers", "1", "--host", HOST, "--port", str(port)]
    # In the environment, since the URI of a database may contain a password, which a list of processes would show.
    variables = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return Server("mlflow", arguments, port, url, partial(answers, f"{url}/health"), variables)


def _service(port: int) -> Server:
    url = f"http://{HOST}:{port}"
    arguments = ["-m", "flows.cli", "serve", "--follow", "--host", HOST, "--port", str(port)]
    return Server("service", arguments, port, url, partial(answers, f"{url}/readyz"), {})


# --- processes --------------------------------------------------------------------------------------------------------


def _start(workspace: Path, server: Server) -> Started:
    token = uuid.uuid4().hex
    log = workspace / server.log
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *server.arguments],
            cwd=workspace,
            env={**os.environ, **server.variables, TOKEN: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # the end of this command's terminal does not end it
        )
    process.returncode = 0  # it is meant to go on without this process, which Popen would warn of
    return Started(process.pid, token, server.url)


def _wait_ready(workspace: Path, servers: Sequence[Server], started: dict[str, Started]) -> None:
    end = time.monotonic() + READY_SECONDS
    waiting = list(servers)
    while waiting:
        for server in waiting:
            if not started[server.name].runs():
                reason = _last_line(workspace / server.log)
                raise ToolError(f"{server.name} ended before it was ready{reason} ({server.log})")
        waiting = [server for server in waiting if not server.is_ready()]
        if waiting and time.monotonic() > end:
            name, log = waiting[0].name, waiting[0].log
            raise ToolError(f"{name} was not ready after {READY_SECONDS:.0f} s; {log} has its output")
        time.sleep(0.2)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last.removeprefix('potstill: ')[:300]}" if last else ""


def _stop(started: Started) -> bool:
    """End all processes of a server, the first one with time to finish; returns whether that one still ran."""
    processes = started.processes()
    first = [process for process in processes if process.pid == started.pid]
    for process in first:
        process.terminate()
    psutil.wait_procs(first, timeout=STOP_SECONDS)
    for process in started.processes():
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)
    return bool(first)


# --- the record -------------------------------------------------------------------------------------------------------


@contextmanager
def _held(workspace: Path) -> Iterator[None]:
    with hold(workspace / SERVERS_LOCK, what="`potstill up` or `potstill down`"):
        yield


def _read(workspace: Path) -> dict[str, Started]:
    path = workspace / SERVERS
    return {name: Started(**values) for name, values in read_json(path).items()} if path.exists() else {}


def _write(workspace: Path, started: dict[str, Started]) -> None:
    write_json(workspace / SERVERS, {name: asdict(each) for name, each in started.items()})
