"""`potstill serve --follow`: serve the champion, and go over to each new one without losing a request."""

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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from flows.commands.judge_answers import challenger_folder, challenger_version, watch_service
from flows.commands.serve_champion import TAKEN, champion, present
from potstill import environment
from potstill.compute.processes import die_with_parent, listen
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import PackageError, PotstillError, SmokeError
from potstill.progress import say
from potstill.serving.keys import FILE_VARIABLE, VARIABLE, key_entry, new_key
from potstill.serving.launch import SHADOW_FOLDER
from tasks.smoke import HOST, compare_bento, is_ready

T = TypeVar("T")

WORKER = Path("potstill/serving/worker.py")
KEY_NAME = "potstill-follow"
BACKLOG = 2048
TICK_SECONDS = 0.2
# A worker that still answers after this is ended: what takes so long is no answer to a text.
DRAIN_SECONDS = 60.0
# After which a Bento that could not be served is tried once more: what kept it may have passed.
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
        PackageError: its Bento is not in BentoML's store, or of a version that could not be followed.
        SmokeError: the first Bento did not start or did not answer as it should, or a dead one could not be replaced.
        ToolError: the port is taken.
    """
    params = load_params(workspace / "params.yaml")
    watch_service(workspace, params)
    address = (host or params.serve.host, params.serve.port if port is None else port)
    ending = Ending()
    with Looker() as looker:
        roles = looker.ask(roles_of, workspace, params)
        with listen(*address, advice=TAKEN, backlog=BACKLOG) as listener:
            follower = Follower(workspace, params, listener, ending, looker)
            try:
                follower.go_over(roles)
                served = f"http://{address[0]}:{listener.getsockname()[1]}"
                say(f"serve: {roles.tag} answers at {served}; new champions are followed")
                follower.keep_on(Watch(workspace, params, roles, every_seconds, looker))
                say("serve: stopping; requests that have begun are answered")
            except SmokeError:
                if not ending.asked:
                    raise
            finally:
                # First no more connections are taken here, or they would wait in vain until the last answer is out.
                listener.close()
                follower.stop()


@dataclass(frozen=True)
class Roles:
    """What the registry says is to answer.

    Attributes:
        version: the champion's number.
        tag: of its Bento.
        challenger: number of the version that rides along; None where there is none, or `watch.shadow` is 0.
    """

    version: str
    tag: str
    challenger: str | None


def roles_of(workspace: Path, params: Params) -> Roles:
    """Ask the registry who is champion and who challenges it: two or three cheap calls.

    Raises:
        RegistryError: there is no champion, or it has no Bento.
    """
    return Roles(*champion(workspace, params), challenger_version(workspace, params))


class Looker:
    """A process that asks the registry, so that what MLflow does can neither block nor end this one.

    It stays between looks: starting it anew takes seconds of CPU, for MLflow's import.
    """

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Looker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function there and give what it returns or raises; a process that died is started anew first."""
        if self._pool is None:
            self._pool = _spawning()
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            self._end()
            raise

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None


class Ending:
    """Whether the command was told to end. Noted and not raised: an exception would cut a worker off in mid-answer."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C does not wait


class Follower:
    """The supervisor: it holds the public listening socket and one worker that accepts from it."""

    def __init__(
        self, workspace: Path, params: Params, listener: socket.socket, ending: Ending, looker: Looker
    ) -> None:
        self._workspace, self._params, self._listener = workspace, params, listener
        self._ending, self._looker = ending, looker
        self._worker: Worker | None = None

    def go_over(self, roles: Roles, *, tried: bool = False) -> None:
        """Start a Bento next to the present one, try it, let it take the connections, and drain the present one.

        Args:
            roles: whose Bento it is, and whether a challenger rides along.
            tried: whether it has shown its answers before; its files it verifies at every start.

        Raises:
            PotstillError: the Bento is not usable; the present one goes on as before.
        """
        path = present(roles.tag)
        new = Worker.start(roles, path, self._shadow(roles))
        try:
            new.wait_until_ready(self._params.smoke.start_seconds, self._ending)
            if not tried:
                _apart(compare_bento, new.address, new.key, self._workspace, path, self._params)
            new.listen(self._listener)
        except BaseException:
            new.stop(0)
            raise
        old, self._worker = self._worker, new
        if old is not None:
            old.stop(DRAIN_SECONDS)

    def _shadow(self, roles: Roles) -> Path | None:
        """The challenger's folder, looked up for each worker: yesterday's challenger may be today's champion."""
        if roles.challenger is None:
            return None
        try:
            return self._looker.ask(challenger_folder, self._workspace, self._params)
        except BrokenProcessPool:
            say("serve: the challenger is left out: the process that fetched it ended")
            return None

    def keep_on(self, registry: Watch) -> None:
        """Watch worker and registry until the command is told to end.

        Raises:
            PotstillError: a worker died and its Bento does not start again.
        """
        while not self._ending.asked:
            time.sleep(TICK_SECONDS)
            worker = self._worker
            assert worker is not None
            if worker.process.poll() is not None:
                say(f"serve: the process of {worker.tag} ended ({worker.ending()}) and is started again")
                self.go_over(worker.roles, tried=True)
            elif (roles := registry.news(worker.roles)) is not None:
                self._try(roles, worker)

    def stop(self) -> None:
        """Let the worker answer what it has begun, and end it."""
        if self._worker is not None:
            self._worker.stop(DRAIN_SECONDS)

    def _try(self, roles: Roles, present_worker: Worker) -> None:
        begin = time.monotonic()
        try:
            self.go_over(roles, tried=roles.tag == present_worker.tag)
        except Exception as error:  # whatever it is, the present one goes on
            say(f"serve: {present_worker.tag} stays; {roles.tag} is not served: {_sentence(error)}")
            return
        seconds = time.monotonic() - begin
        if roles.tag != present_worker.tag:
            say(f"serve: {roles.tag} answers now, {present_worker.tag} is drained and ended ({seconds:.1f} s)")
        else:
            challenger = (
                "no challenger" if roles.challenger is None else f"version {roles.challenger} as its challenger"
            )
            say(f"serve: {roles.tag} answers with {challenger} now ({seconds:.1f} s)")


class Watch:
    """The registry's word on who is to answer, asked every so often."""

    def __init__(self, workspace: Path, params: Params, roles: Roles, every_seconds: float, looker: Looker) -> None:
        self._workspace, self._params, self._every, self._looker = workspace, params, every_seconds, looker
        self._next = 0.0
        # What was given out last, and until when it is not given out again.
        self._given, self._until = roles, math.inf
        self._said: str | None = None

    def news(self, serving: Roles) -> Roles | None:
        """What the registry says where that is not what is served.

        Given out once, so that a Bento that cannot be served is not tried all the time, and again `RETRY_SECONDS`
        later. A look that failed changes nothing: the next one asks the same.
        """
        if time.monotonic() < self._next:
            return None
        roles = self._look(serving.tag)
        now = time.monotonic()
        self._next = now + self._every
        if roles is None or (roles.tag, roles.challenger) == (serving.tag, serving.challenger):
            return None
        if roles == self._given and now < self._until:
            return None
        self._given, self._until = roles, now + RETRY_SECONDS
        return roles

    def _look(self, serving: str) -> Roles | None:
        try:
            roles = self._looker.ask(roles_of, self._workspace, self._params)
        except Exception as error:  # such as a database that is locked for a moment
            if (said := _sentence(error)) != self._said:
                say(f"serve: {serving} stays: {said}")
            self._said = said
            return None
        self._said = None
        return roles


@dataclass
class Worker:
    """A process that serves one Bento: at `address` from the start, on the public socket once it is given to it.

    Attributes:
        roles: what it serves.
        key: what this process may ask with, where the service has keys: of those it knows the sums alone.
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
        """Start one on a loopback port of its own.

        Args:
            roles: what it serves.
            path: of the Bento.
            shadow: serving folder of the challenger that rides along.

        Raises:
            PackageError: the Bento is of a version that could not be followed.
        """
        if not (path / "src" / WORKER).exists():
            raise PackageError(f"{roles.tag} was packaged before --follow was there; `potstill run` packages it anew")
        with ExitStack() as stack:
            own = stack.enter_context(socket.create_server((HOST, 0)))
            control, theirs = socket.socketpair()
            stack.enter_context(theirs)
            metrics = Path(tempfile.mkdtemp(prefix="potstill-metrics-"))
            descriptors, key = (own.fileno(), theirs.fileno()), new_key()
            process = subprocess.Popen(
                [sys.executable, "-m", ".".join(WORKER.with_suffix("").parts), *_options(*descriptors)],
                cwd=path / "src",
                env=_variables(metrics, key, shadow),
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                process_group=0,  # Ctrl-C is for the supervisor, which drains
                preexec_fn=die_with_parent,
            )
            return cls(roles, process, f"http://{HOST}:{own.getsockname()[1]}", key, control, metrics)

    def wait_until_ready(self, limit_seconds: float, ending: Ending) -> None:
        """Wait for `/readyz`.

        Raises:
            SmokeError: it ended, or was not ready in time.
        """
        end = time.monotonic() + limit_seconds
        while not is_ready(self.address):
            if ending.asked:
                raise SmokeError(f"{self.tag} was not ready yet when this command was told to end")
            if self.process.poll() is not None:
                raise SmokeError(f"{self.tag} did not start ({self.ending()}); what it said is above")
            if time.monotonic() > end:
                raise SmokeError(f"{self.tag} was not ready after {limit_seconds:.0f} s (smoke.start_seconds)")
            time.sleep(0.05)

    def listen(self, listener: socket.socket) -> None:
        """Have it accept from the public socket; returns once it does.

        Raises:
            SmokeError: it ended instead.
        """
        self.control.settimeout(10)
        with suppress(OSError):
            socket.send_fds(self.control, [b"listen"], [listener.fileno()])
            if self.control.recv(16):
                return
        raise SmokeError(f"{self.tag} did not take the public socket ({self.ending()})")

    def stop(self, grace_seconds: float) -> None:
        """Let it answer what it has begun for so long, then kill what is left."""
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

    def ending(self) -> str:
        """How it ended."""
        code = self.process.poll()
        if code is None:
            return "still running"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _options(own: int, control: int) -> list[str]:
    return ["--own", str(own), "--control", str(control)]


def _variables(metrics: Path, key: str, shadow: Path | None) -> dict[str, str]:
    variables = dict(os.environ)
    if shadow is not None:
        variables.setdefault(SHADOW_FOLDER, str(shadow))
    environment.prepare(variables)
    # The Bento's own code is what runs, whatever a shell has put before it.
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        variables.pop(name, None)
    if variables.get(VARIABLE) or variables.get(FILE_VARIABLE):
        variables[VARIABLE] = ",".join(filter(None, [variables.get(VARIABLE), key_entry(KEY_NAME, key)]))
    # BentoML's default is one folder for all servers of a user, emptied by each that starts.
    return variables | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}


def _apart(function: Callable[..., T], *arguments: object) -> T:
    """A call in a process of its own, so that numpy and what else it imports does not stay in memory."""
    with _spawning() as pool:
        return pool.submit(function, *arguments).result()


def _spawning() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_attend)


def _attend() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, PotstillError) else f"{type(error).__name__}: {error}"
