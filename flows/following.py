"""`potstill serve --follow`: serve the champion, and go over to each new one without losing a request."""

from __future__ import annotations

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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from flows.serving import champion, present
from flows.watching import watch_service
from potstill import environment
from potstill.config import Params, load_params
from potstill.errors import PackageError, PotstillError, SmokeError, ToolError
from potstill.processes import die_with_parent
from potstill.progress import say
from potstill.registry.ledger import LEDGER
from potstill.serving.keys import FILE_VARIABLE, VARIABLE, entry, new_key
from tasks.smoke import HOST, compare_bento, is_ready

T = TypeVar("T")

WORKER = Path("potstill/serving/worker.py")
KEY_NAME = "potstill-follow"
BACKLOG = 2048
TICK_SECONDS = 0.2
# A worker that still answers after this is ended: what takes so long is no answer to a text.
DRAIN_SECONDS = 60.0


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
        ChecksumError: see `watch_service`.
        ToolError: the port is taken.
    """
    params = load_params(workspace / "params.yaml")
    watch_service(workspace, params)
    address = (host or params.serve.host, params.serve.port if port is None else port)
    version, tag = _apart(champion, workspace, params)
    ending = Ending()
    with _listening(address) as listener:
        follower = Follower(workspace, params, listener, ending)
        try:
            follower.go_over(tag)
            say(f"serve: {tag} answers at http://{address[0]}:{listener.getsockname()[1]}; new champions are followed")
            follower.keep_on(Watch(workspace, params, version, every_seconds))
            say("serve: stopping; requests that have begun are answered")
        except SmokeError:
            if not ending.asked:
                raise
        finally:
            # First no more connections are taken here, or they would wait in vain until the last answer is out.
            listener.close()
            follower.stop()


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

    def __init__(self, workspace: Path, params: Params, listener: socket.socket, ending: Ending) -> None:
        self._workspace, self._params, self._listener, self._ending = workspace, params, listener, ending
        self._worker: Worker | None = None

    def go_over(self, tag: str, *, tried: bool = False) -> None:
        """Start a Bento beside the present one, try it, let it take the connections, and drain the present one.

        Args:
            tag: of the Bento.
            tried: whether it has shown its answers before; its files it verifies at every start.

        Raises:
            PotstillError: the Bento is not usable; the present one goes on as before.
        """
        path = present(tag)
        new = Worker.start(tag, path)
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
                self.go_over(worker.tag, tried=True)
            elif (tag := registry.news(worker.tag)) is not None:
                self._try(tag, worker.tag)

    def stop(self) -> None:
        """Let the worker answer what it has begun, and end it."""
        if self._worker is not None:
            self._worker.stop(DRAIN_SECONDS)

    def _try(self, tag: str, present_tag: str) -> None:
        begin = time.monotonic()
        try:
            self.go_over(tag)
        except Exception as error:  # whatever it is, the present one goes on
            say(f"serve: {present_tag} stays; {tag} is not served: {_sentence(error)}")
        else:
            say(f"serve: {tag} answers now, {present_tag} is drained and ended ({time.monotonic() - begin:.1f} s)")


class Watch:
    """The registry, looked at no more than needed: a champion changes with a line of the ledger, on a server unseen."""

    def __init__(self, workspace: Path, params: Params, version: str, every_seconds: float) -> None:
        self._workspace, self._params, self._every = workspace, params, every_seconds
        self._version = version
        self._next = 0.0
        self._seen: object = None
        self._said: str | None = None

    def news(self, serving: str) -> str | None:
        """The tag of a new champion's Bento, once, if it is another than the one served."""
        if time.monotonic() < self._next:
            return None
        state, found = self._state(), None
        if state != self._seen or "MLFLOW_TRACKING_URI" in os.environ:
            found = self._champion(serving)
        self._seen, self._next = state, time.monotonic() + self._every
        if found is None or found[0] == self._version:
            return None
        self._version = found[0]
        return found[1] if found[1] != serving else None

    def _champion(self, serving: str) -> tuple[str, str] | None:
        try:
            found = _apart(champion, self._workspace, self._params)
        except Exception as error:  # such as a database that is locked for a moment
            if (said := _sentence(error)) != self._said:
                say(f"serve: {serving} stays: {said}")
            self._said = said
            return None
        self._said = None
        return found

    def _state(self) -> object:
        try:
            found = (self._workspace / LEDGER).stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size


@dataclass
class Worker:
    """A process that serves one Bento: at `address` from the start, on the public socket once it is given to it.

    Attributes:
        key: what this process may ask with, where the service has keys: of those it knows the sums alone.
    """

    tag: str
    process: subprocess.Popen[bytes]
    address: str
    key: str
    control: socket.socket
    metrics: Path

    @classmethod
    def start(cls, tag: str, path: Path) -> Worker:
        """Start one on a loopback port of its own.

        Raises:
            PackageError: the Bento is of a version that could not be followed.
        """
        if not (path / "src" / WORKER).exists():
            raise PackageError(f"{tag} was packaged before --follow was there; `potstill run` packages it anew")
        with ExitStack() as stack:
            own = stack.enter_context(socket.create_server((HOST, 0)))
            control, theirs = socket.socketpair()
            stack.enter_context(theirs)
            metrics = Path(tempfile.mkdtemp(prefix="potstill-metrics-"))
            descriptors, key = (own.fileno(), theirs.fileno()), new_key()
            process = subprocess.Popen(
                [sys.executable, "-m", ".".join(WORKER.with_suffix("").parts), *_options(*descriptors)],
                cwd=path / "src",
                env=_variables(metrics, key),
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                process_group=0,  # Ctrl-C is for the supervisor, which drains
                preexec_fn=die_with_parent,
            )
            return cls(tag, process, f"http://{HOST}:{own.getsockname()[1]}", key, control, metrics)

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


def _variables(metrics: Path, key: str) -> dict[str, str]:
    variables = dict(os.environ)
    environment.prepare(variables)
    # The Bento's own code is what runs, whatever a shell has put before it.
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        variables.pop(name, None)
    if variables.get(VARIABLE) or variables.get(FILE_VARIABLE):
        variables[VARIABLE] = ",".join(filter(None, [variables.get(VARIABLE), entry(KEY_NAME, key)]))
    # BentoML's default is one folder for all servers of a user, emptied by each that starts.
    return variables | {"PROMETHEUS_MULTIPROC_DIR": str(metrics)}


def _listening(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        raise ToolError(
            f"cannot listen on {address[0]} port {address[1]} ({error.strerror}); end what uses it, or give --port"
        ) from error


def _apart(function: Callable[..., T], *arguments: object) -> T:
    """A call in a process of its own, so that MLflow and numpy do not stay in memory for as long as this one serves."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_attend) as pool:
        return pool.submit(function, *arguments).result()


def _attend() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, PotstillError) else f"{type(error).__name__}: {error}"
