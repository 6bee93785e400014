"""`potstill serve --follow`: serves the champion, and switches to each new one without losing a request."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from flows.commands.judge_answers import challenger_folder, challenger_version, watch_service
from flows.commands.serve_champion import TAKEN, champion_bento, require_signature, stored_bento
from potstill import environment
from potstill.compute.processes import die_with_parent, listen
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import PackageError, PotstillError, SmokeError
from potstill.paths import PARAMS
from potstill.progress import say
from potstill.serving.keys import FILE_VARIABLE, VARIABLE, key_entry, new_key
from potstill.serving.launch import SHADOW_FOLDER
from tasks.smoke import HOST, compare_bento, is_ready

T = TypeVar("T")

WORKER = Path("potstill/serving/worker.py")
KEY_NAME = "potstill-follow"
BACKLOG = 2048
TICK_SECONDS = 0.2
# How long a replaced worker may finish the requests it has begun, before it is killed.
DRAIN_SECONDS = 60.0
# How long to wait before a Bento that could not be served is tried again: the obstacle may have passed.
RETRY_SECONDS = 300.0


def follow(workspace: Path, host: str | None, port: int | None, every_seconds: float) -> None:
    """Serve the champion's Bento until SIGTERM or Ctrl-C, and every champion after it.

    Args:
        workspace: the current folder.
        host: address to bind; `serve.host` when None.
        port: port to bind; `serve.port` when None.
        every_seconds: how often the registry is asked for the champion.

    Raises:
        RegistryError: there is no champion.
        PackageError: its Bento is not in BentoML's store, or was packaged before `--follow` existed.
        SignatureError: params require a signature, and that of the first Bento is missing or does not verify.
        SmokeError: the first Bento did not start or did not answer as it should, or a dead one could not be replaced.
        ToolError: the port is taken.
    """
    params = load_params(workspace / PARAMS)
    watch_service(workspace, params)
    address = (host or params.serve.host, params.serve.port if port is None else port)
    stop_request = StopRequest()
    with closing(RegistryProcess(workspace, params)) as registry:
        roles = registry.call(read_roles)
        with listen(*address, advice=TAKEN, backlog=BACKLOG) as listener:
            supervisor = Supervisor(workspace, params, listener, stop_request, registry)
            try:
                supervisor.switch(roles)
                name = f"[{address[0]}]" if ":" in address[0] else address[0]
                url = f"http://{name}:{listener.getsockname()[1]}"
                say(f"serve: {roles.tag} answers at {url}; new champions are followed")
                supervisor.supervise(RolesWatch(roles, every_seconds, registry))
                say("serve: stopping; requests that have begun are answered")
            except SmokeError:
                if not stop_request.received:
                    raise
            finally:
                # Stop accepting first: a connection taken now would wait in vain until the last answer is out.
                listener.close()
                supervisor.stop()


@dataclass(frozen=True)
class Roles:
    """The versions that are to answer, as the registry has them.

    Attributes:
        version: the champion's number.
        tag: the tag of its Bento.
        challenger: the number of the version that shadows it; None without a challenger, or where `watch.shadow` is 0.
    """

    version: str
    tag: str
    challenger: str | None


def read_roles(workspace: Path, params: Params) -> Roles:
    """Ask the registry for champion and challenger: two or three cheap calls.

    Raises:
        RegistryError: there is no champion, or it has no Bento.
    """
    return Roles(*champion_bento(workspace, params), challenger_version(workspace, params))


class RegistryProcess:
    """A process that asks the registry, so that MLflow can neither block nor end this one.

    It lives on between questions: importing MLflow takes seconds of CPU.
    """

    def __init__(self, workspace: Path, params: Params) -> None:
        self._registry = (workspace, params)
        self._pool: ProcessPoolExecutor | None = None

    def call(self, function: Callable[[Path, Params], T]) -> T:
        """Call a function in that process and return or raise its outcome; a process that died is restarted first."""
        if self._pool is None:
            self._pool = _spawned_process()
        try:
            return self._pool.submit(function, *self._registry).result()
        except BrokenProcessPool:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None


class StopRequest:
    """Whether the command was told to end. Recorded, not raised: an exception would cut off a worker in mid-answer."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._record)

    def _record(self, number: int, frame: object) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C does not wait


@dataclass
class Supervisor:
    """The process that holds the public listening socket, and one worker that accepts from it."""

    workspace: Path
    params: Params
    listener: socket.socket
    stop_request: StopRequest
    registry: RegistryProcess
    worker: Worker | None = None

    def switch(self, roles: Roles, *, compared: bool = False) -> None:
        """Start a Bento next to the current one, check its answers, hand it the connections, and drain the current one.

        Args:
            roles: the version whose Bento it is, and the challenger that shadows it.
            compared: whether its answers were compared before. Its files are verified at every start.

        Raises:
            PotstillError: the Bento is not usable; the current one goes on as before.
        """
        path = stored_bento(roles.tag)
        if self.params.sign.require:
            _in_own_process(require_signature, path, self.params, self.workspace)
        new = Worker.start(roles, path, self._challenger_dir(roles))
        try:
            new.wait_until_ready(self.params.smoke.start_seconds, self.stop_request)
            if not compared:
                _in_own_process(compare_bento, new.address, new.key, self.workspace, path, self.params)
            new.listen(self.listener)
        except BaseException:
            new.stop(0)
            raise
        old, self.worker = self.worker, new
        if old is not None:
            old.stop(DRAIN_SECONDS)

    def _challenger_dir(self, roles: Roles) -> Path | None:
        """Look up the challenger's folder, for each worker: yesterday's challenger may be today's champion."""
        if roles.challenger is None:
            return None
        try:
            return self.registry.call(challenger_folder)
        except BrokenProcessPool:
            say("serve: the challenger is left out: the process that fetched it ended")
            return None

    def supervise(self, registry: RolesWatch) -> None:
        """Watch worker and registry until the command is told to end.

        Raises:
            PotstillError: a worker died and its Bento does not start again.
        """
        while not self.stop_request.received:
            time.sleep(TICK_SECONDS)
            worker = self.worker
            assert worker is not None
            if worker.process.poll() is not None:
                say(f"serve: the process of {worker.tag} ended ({worker.exit_words()}) and is started again")
                self.switch(worker.roles, compared=True)
            elif (roles := registry.change(worker.roles)) is not None:
                self._try_switch(roles, worker)

    def stop(self) -> None:
        """Let the worker answer what it has begun, and end it."""
        if self.worker is not None:
            self.worker.stop(DRAIN_SECONDS)

    def _try_switch(self, roles: Roles, current: Worker) -> None:
        begin = time.monotonic()
        try:
            self.switch(roles, compared=roles.tag == current.tag)
        except Exception as error:  # whatever it is, the current worker goes on
            say(f"serve: {current.tag} stays; {roles.tag} is not served: {_sentence(error)}")
            return
        seconds = time.monotonic() - begin
        if roles.tag != current.tag:
            say(f"serve: {roles.tag} answers now, {current.tag} is drained and ended ({seconds:.1f} s)")
            return
        challenger = "no challenger"
        if roles.challenger is not None:
            challenger = f"version {roles.challenger} as its challenger"
        say(f"serve: {roles.tag} answers with {challenger} now ({seconds:.1f} s)")


class RolesWatch:
    """Asks the registry at intervals which versions are to answer."""

    def __init__(self, roles: Roles, every_seconds: float, registry: RegistryProcess) -> None:
        self._every = every_seconds
        self._registry = registry
        self._next_question = 0.0
        # The roles that were returned last, and until when they are not returned again.
        self._returned = roles
        self._silent_until = math.inf
        self._last_error: str | None = None

    def change(self, serving: Roles) -> Roles | None:
        """Return the registry's roles where they are not those that are served; else None.

        The same roles are returned once, and again after `RETRY_SECONDS`: a Bento that cannot be served is not tried
        all the time. A question that failed changes nothing; the next one asks the same.
        """
        if time.monotonic() < self._next_question:
            return None
        roles = self._read(serving.tag)
        now = time.monotonic()
        self._next_question = now + self._every
        if roles is None:
            return None
        if (roles.tag, roles.challenger) == (serving.tag, serving.challenger):
            self._returned = roles  # others that could not be served are others again when they come back
            return None
        if roles == self._returned and now < self._silent_until:
            return None
        self._returned = roles
        self._silent_until = now + RETRY_SECONDS
        return roles

    def _read(self, serving: str) -> Roles | None:
        try:
            roles = self._registry.call(read_roles)
        except Exception as error:  # such as a database that is locked for a moment
            sentence = _sentence(error)
            if sentence != self._last_error:
                say(f"serve: {serving} stays: {sentence}")
            self._last_error = sentence
            return None
        self._last_error = None
        return roles


@dataclass
class Worker:
    """A process that serves one Bento: at `address` from the start, on the public socket once it has received that.

    Attributes:
        roles: the versions it serves.
        key: an API key made for this process, where the service has keys; of the users' keys only sums are known.
    """

    roles: Roles
    process: subprocess.Popen[bytes]
    address: str
    key: str
    control: socket.socket
    metrics: Path

    @property
    def tag(self) -> str:
        """The tag of the Bento it serves."""
        return self.roles.tag

    @classmethod
    def start(cls, roles: Roles, path: Path, shadow: Path | None) -> Worker:
        """Start a worker on a loopback port of its own.

        Args:
            roles: the versions it serves.
            path: folder of the Bento.
            shadow: serving folder of the challenger.

        Raises:
            PackageError: the Bento was packaged before `--follow` existed.
        """
        if not (path / "src" / WORKER).exists():
            raise PackageError(f"{roles.tag} was packaged before --follow was there; `potstill run` packages it anew")
        with ExitStack() as stack:
            private = stack.enter_context(socket.create_server((HOST, 0)))
            control, worker_control = socket.socketpair()
            stack.enter_context(worker_control)
            metrics = Path(tempfile.mkdtemp(prefix="potstill-metrics-"))
            descriptors = (private.fileno(), worker_control.fileno())
            key = new_key()
            options = ["--own", str(descriptors[0]), "--control", str(descriptors[1])]
            process = subprocess.Popen(
                [sys.executable, "-m", ".".join(WORKER.with_suffix("").parts), *options],
                cwd=path / "src",
                env=_variables(metrics, key, shadow),
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                process_group=0,  # Ctrl-C is for the supervisor, which drains
                preexec_fn=die_with_parent,
            )
            return cls(roles, process, f"http://{HOST}:{private.getsockname()[1]}", key, control, metrics)

    def wait_until_ready(self, limit_seconds: float, stop_request: StopRequest) -> None:
        """Wait for `/readyz`.

        Raises:
            SmokeError: it ended, or was not ready in time.
        """
        end = time.monotonic() + limit_seconds
        while not is_ready(self.address):
            if stop_request.received:
                raise SmokeError(f"{self.tag} was not ready yet when this command was told to end")
            if self.process.poll() is not None:
                raise SmokeError(f"{self.tag} did not start ({self.exit_words()}); its output is above")
            if time.monotonic() > end:
                raise SmokeError(f"{self.tag} was not ready after {limit_seconds:.0f} s (smoke.start_seconds)")
            time.sleep(0.05)

    def listen(self, listener: socket.socket) -> None:
        """Have it accept from the public socket, and wait until it does.

        Raises:
            SmokeError: it ended instead.
        """
        self.control.settimeout(10)
        with suppress(OSError):
            socket.send_fds(self.control, [b"listen"], [listener.fileno()])
            if self.control.recv(16):
                return
        raise SmokeError(f"{self.tag} did not take the public socket ({self.exit_words()})")

    def stop(self, grace_seconds: float) -> None:
        """Let it finish the requests it has begun for that long, then kill what is left."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            if grace_seconds:
                say(f"serve: {self.tag} had not answered everything after {grace_seconds:.0f} s and is ended")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.control.close()
            shutil.rmtree(self.metrics, ignore_errors=True)

    def exit_words(self) -> str:
        """Say how the process ended."""
        code = self.process.poll()
        if code is None:
            return "still running"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _variables(metrics: Path, key: str, shadow: Path | None) -> dict[str, str]:
    variables = dict(os.environ)
    if shadow is not None:
        variables.setdefault(SHADOW_FOLDER, str(shadow))
    environment.prepare(variables)
    # The Bento's own code is to run, whatever a shell has put on the path before it.
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        variables.pop(name, None)
    if variables.get(VARIABLE) or variables.get(FILE_VARIABLE):
        # The key stands on a line of its own, since the user's entries may end in a comment.
        variables[VARIABLE] = "\n".join(filter(None, [variables.get(VARIABLE), key_entry(KEY_NAME, key)]))
    # BentoML's default is one folder for all servers of a user, which each of them empties at its start.
    return variables | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}


def _in_own_process(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a process of its own, so that numpy and its other imports do not stay in memory."""
    with _spawned_process() as pool:
        return pool.submit(function, *arguments).result()


def _spawned_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_set_up_process)


def _set_up_process() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, PotstillError) else f"{type(error).__name__}: {error}"
