"""Calls of MLflow's store that end in bounded time, and with errors that say what happened.

A store can be away, refuse, hang, be locked by another process, or lose a race against another writer. MLflow waits for
minutes and then raises exceptions of its own, of SQLAlchemy's, requests' or a driver's. Every call of the client that
`connect` gives is waited for only so long as `COMMAND` says, or `RUN` inside `patience(RUN)`, and what goes wrong is
one of Potstill's errors. Only answers of the store about the request itself stay MLflow's exceptions (`ANSWERS`):
whoever asks for a version has to know whether there is one.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from potstill.causes import causes, full_disk
from potstill.errors import PotstillError, RegistryError, StoreError
from potstill.progress import say

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

# `error_code` of the MLflow exceptions that answer the request. They are for the caller.
ANSWERS = frozenset({"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE"})


@dataclass(frozen=True)
class Patience:
    """How long a call is waited for.

    Attributes:
        seconds: for one call with all its retries.
        request_seconds: for one HTTP request, and for each part of a transfer.
        retries: whether a store that is away is asked again until `seconds` are over.
    """

    seconds: float
    request_seconds: int
    retries: bool


# With the imports before it and the sentence after it, a command ends within 15 s of the store's silence.
COMMAND = Patience(seconds=8, request_seconds=4, retries=False)
RUN = Patience(seconds=300, request_seconds=60, retries=True)
# Making the tables of a new database takes seconds, on a busy machine many.
_MAKING = Patience(seconds=300, request_seconds=4, retries=False)
# Calls that move files take as long as the files are large; each request of theirs is bounded.
_MOVING = Patience(seconds=float("inf"), request_seconds=60, retries=False)
_NOTICE_SECONDS = 10.0
_RETRY_SECONDS = 5.0
_TRANSFERS = frozenset({"log_artifact", "log_artifacts", "log_model_artifacts", "download_artifacts"})
_REQUEST_SECONDS = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "PGCONNECT_TIMEOUT": "5"}

_patience = COMMAND


@contextmanager
def patience(chosen: Patience) -> Iterator[None]:
    """Wait for the store as long as chosen, calls that other threads have begun included.

    `RUN` is for a run: hours of training are not lost to a server that restarts.
    """
    global _patience
    before, _patience = _patience, chosen
    try:
        yield
    finally:
        _patience = before


def connect(uri: str, registry_uri: str) -> MlflowClient:
    """An MLflow client whose calls are bounded. A database that does not exist is made, whole or not at all.

    Raises:
        StoreError: the store is away, or is none that MLflow can use.
        DiskFullError: there is no space for a new database.
    """
    _limit_http()
    from mlflow.tracking import MlflowClient

    # `mlflow.store` logs whole tracebacks of what is raised as well, `urllib3` each retry.
    levels = {"mlflow": "WARNING", "alembic": "WARNING", "mlflow.store": "CRITICAL", "urllib3": "ERROR"}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        _attempt(uri, functools.partial(_make_database, path), _MAKING, answers=frozenset())
    if _is_database(uri):
        bounded(uri, functools.partial(_probe, uri))
    made = functools.partial(MlflowClient, tracking_uri=uri, registry_uri=registry_uri)
    client: MlflowClient = _attempt(uri, made, _MAKING, answers=frozenset())
    return cast("MlflowClient", _Bounded(client, uri))  # it has the client's methods, by `__getattr__`


class _Bounded:
    """An MLflow client whose every method goes through `bounded`."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        @functools.wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            return bounded(self._uri, functools.partial(method, *arguments, **named), transfer=name in _TRANSFERS)

        return call


def bounded(uri: str, function: Callable[[], T], *, transfer: bool = False) -> T:
    """Call the store, wait for it no longer than patience lasts, and translate what goes wrong.

    With the patience of a run a store that is away is asked again, so a call whose answer was lost may be made twice.

    Args:
        uri: of the store, for the sentence.
        function: the call.
        transfer: whether it moves files; then each request is bounded and not the whole.

    Raises:
        StoreError: the store is away, does not answer in time, or fails.
        RegistryError: another writer was faster.
        DiskFullError: the store has no space left.
        MlflowException: an answer about the request (`ANSWERS`).
    """
    _limit_http()
    begin = time.monotonic()
    while True:
        try:
            return _attempt(uri, function, _MOVING if transfer else None, begin)
        except _AwayError as error:
            left = begin + _patience.seconds - time.monotonic()
            if not _patience.retries or left < _RETRY_SECONDS:
                raise
            say(f"{error.message}; asking again for up to {left / 60:.0f} more minutes")
            time.sleep(_RETRY_SECONDS)


def _attempt(
    uri: str,
    function: Callable[[], T],
    own_patience: Patience | None,
    begin: float | None = None,
    answers: frozenset[str] = ANSWERS,
) -> T:
    """One try in a thread of its own, which is left to itself where it outlasts the patience."""
    outcome: list[T] = []
    failure: list[Exception] = []
    context = contextvars.copy_context()

    def work() -> None:
        try:
            outcome.append(context.run(function))
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="mlflow-call", daemon=True)
    thread.start()
    _join(thread, uri, own_patience, time.monotonic() if begin is None else begin)
    if outcome:
        return outcome[0]
    if not failure:
        raise _AwayError(_hanging(uri))
    if (error := translate(failure[0], uri, answers)) is not None:
        raise error from failure[0]
    raise failure[0]


def _join(thread: threading.Thread, uri: str, own_patience: Patience | None, begin: float) -> None:
    """Wait for a call; in a run, say after a while what is waited for."""
    said = own_patience is not None
    thread.join(0.5)
    while thread.is_alive():
        # Asked each time: a run that is interrupted has less of it.
        waited, current = time.monotonic() - begin, own_patience or _patience
        if waited > current.seconds:
            return
        if waited > _NOTICE_SECONDS and not said:
            say(f"waiting for MLflow at {shown(uri)}")
            said = True
        thread.join(min(0.5, current.seconds - waited))


class _AwayError(StoreError):
    """The store is not there now, and may be there again soon."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(f"{message}; see that it runs and can be reached, then run again")


# --- what went wrong --------------------------------------------------------------------------------------------------


def translate(error: Exception, uri: str, answers: frozenset[str] = ANSWERS) -> PotstillError | None:
    """The error to show for what a call of the store raised; None for an answer and for what no store raises."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, PotstillError):
        return error
    if (disk := full_disk(error, shown(uri))) is not None:
        return disk
    if not isinstance(error, (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError)):
        return None
    text, code = _flat(error), getattr(error, "error_code", "")
    if code in answers:
        return None
    if _lost_race(error, text):
        return RegistryError(f"another process wrote to {shown(uri)} at the same moment and was first; run again")
    return _failure(error, text, code, uri)


def _failure(error: Exception, text: str, code: str, uri: str) -> StoreError:
    where = f"MLflow at {shown(uri)}"
    if code in {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}:
        return StoreError(
            f"{where} refuses this user ({_reason(error, text, uri)}); check MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if code == "ENDPOINT_NOT_FOUND" or "valid JSON" in text or "JSONDecodeError" in text:
        return StoreError(f"what answers at {shown(uri)} is no MLflow server; check MLFLOW_TRACKING_URI")
    if any(isinstance(cause, ImportError) for cause in causes(error)):
        return StoreError(f"{where} needs a package that is not installed ({text}); install it, then run again")
    if "locked" in text:
        return _AwayError(f"{where} is locked by another process")
    reason = _reason(error, text, uri)
    if code in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", ""}:
        return _AwayError(f"{where} does not answer as it should ({reason})")
    return StoreError(f"{where} failed ({reason})")


def _lost_race(error: Exception, text: str) -> bool:
    kinds = {type(cause).__name__ for cause in causes(error)}
    words = ("UNIQUE constraint failed", "UniqueViolation", "duplicate key value", "Duplicate entry", "IntegrityError")
    return "IntegrityError" in kinds or any(word in text for word in words)


def _reason(error: Exception, text: str, uri: str) -> str:
    """A few words, without the layers of URLs and class names that HTTP libraries add."""
    for cause in causes(error):
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror):
            return "the host's name is not known"
        if isinstance(cause, TimeoutError) or type(cause).__name__ in {"ReadTimeout", "ConnectTimeout"}:
            return "no answer in time"
    if (status := re.search(r"too many (\d+) error responses", text)) is not None:
        return f"it answers with status {status[1]}"
    return text.replace(uri, shown(uri))[:300]


def _hanging(uri: str) -> str:
    if uri.startswith("sqlite"):
        return f"MLflow at {shown(uri)} is locked by another process"
    return f"MLflow at {shown(uri)} does not answer (nothing came in {_patience.seconds:.0f} s)"


def shown(uri: str) -> str:
    """A URI as it may be printed: without user and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())


# --- the connection ---------------------------------------------------------------------------------------------------


def _limit_http() -> None:
    """Bound MLflow's own HTTP requests; what a user has set stays."""
    for name, value in _HTTP.items():
        os.environ.setdefault(name, value)
    ours = {str(patience.request_seconds) for patience in (COMMAND, RUN)}
    if os.environ.get(_REQUEST_SECONDS, next(iter(ours))) in ours:
        os.environ[_REQUEST_SECONDS] = str(_patience.request_seconds)


def _is_database(uri: str) -> bool:
    return uri.partition(":")[0].partition("+")[0] in {"sqlite", "postgresql", "mysql", "mssql"}


def _probe(uri: str) -> None:
    """See whether a database is there: MLflow tries ten times, for minutes."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _make_database(path: Path) -> None:
    """Make MLflow's SQLite database. A process that is killed, or a full disk, leaves no half of its tables."""
    from mlflow.tracking import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        new = Path(scratch) / path.name
        uri = f"sqlite:///{new}"
        MlflowClient(tracking_uri=uri, registry_uri=uri)
        with suppress(OSError):  # another process was faster, and its database is as good; or there are no links here
            path.hardlink_to(new)
        if not path.exists():
            new.replace(path)
