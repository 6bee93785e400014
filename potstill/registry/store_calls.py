"""Calls of MLflow's store with bounded time and clear errors.

A store can be unreachable, refuse, hang, be locked by another process, or lose a race against another writer. MLflow
waits for minutes and then raises exceptions of its own, of SQLAlchemy, requests or a database driver. Every call of a
client from `connect` is limited by `COMMAND`, or by `RUN` inside `patience(RUN)`, and a failure is one of Potstill's
errors. Only answers of the store about the request itself stay MLflow's exceptions (`ANSWERS`): a caller that asks for
a version has to know whether it exists.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from potstill.causes import causes, full_disk
from potstill.errors import PotstillError, RegistryError, StoreError, redacted
from potstill.progress import say
from potstill.registry.scratch_folders import process_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")

# `error_code` of the MLflow exceptions that answer the request; the caller handles them.
ANSWERS = frozenset({"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE"})


@contextmanager
def suppress_answers(*codes: str) -> Iterator[None]:
    """Suppress the MLflow exceptions with these error codes, as `contextlib.suppress` does.

    They are known by their `error_code`, so that a command that needs no MLflow does not import it.
    """
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", None) not in codes:
            raise


@dataclass(frozen=True)
class Patience:
    """Time limits of calls.

    Attributes:
        seconds: limit of a call with all its retries.
        request_seconds: limit of an HTTP request, and of each part of a transfer.
        retries: whether a call to an unreachable store is repeated until `seconds` are over.
    """

    seconds: float
    request_seconds: int
    retries: bool


# With its imports and its message, a command ends within 15 s if the store is silent.
COMMAND = Patience(seconds=8, request_seconds=4, retries=False)
RUN = Patience(seconds=300, request_seconds=60, retries=True)
# MLflow itself gives up a locked SQLite database after 20 s. A call that is longer at work is slow.
_SQLITE_SECONDS = 25.0
# Creating the tables of a new database takes seconds, and much longer on a busy machine.
_CREATION = Patience(seconds=300, request_seconds=4, retries=False)
# The time of a file transfer depends on the size of the files, so only each of its requests is limited.
_TRANSFER = Patience(seconds=float("inf"), request_seconds=60, retries=False)
# Attempts of a call that loses races. The next one sees what the winner has written, and only loses to a third writer.
_RACES = 5
_NOTICE_SECONDS = 10.0
_RETRY_SECONDS = 5.0
_TRANSFERS = frozenset({"log_artifact", "log_artifacts", "log_model_artifacts", "download_artifacts"})
# The tag by which a run, a logged model or a version is known before its id is.
_KEY = "potstill.key"
_REQUEST_SECONDS = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "PGCONNECT_TIMEOUT": "5"}

_patience = COMMAND


@contextmanager
def patience(chosen: Patience) -> Iterator[None]:
    """Set the time limits of all calls inside the context, those of other threads included.

    `RUN` is for a run, so that hours of training are not lost to a server that restarts.
    """
    global _patience
    previous = _patience
    _patience = chosen
    try:
        yield
    finally:
        _patience = previous


def connect(uri: str, registry_uri: str) -> MlflowClient:
    """Create an MLflow client with bounded calls. A SQLite database that does not exist is created atomically.

    Raises:
        StoreError: the store is unreachable, or MLflow cannot use it.
        DiskFullError: there is no space for a new database.
    """
    _limit_http()
    from mlflow.tracking import MlflowClient

    # `mlflow.store` also logs the traceback of what it raises, and `urllib3` logs each retry.
    levels = {"mlflow": "WARNING", "alembic": "WARNING", "mlflow.store": "CRITICAL", "urllib3": "ERROR"}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        _attempt(uri, functools.partial(_create_database, path), _CREATION, answers=frozenset())
    if _is_database(uri):
        bounded(uri, functools.partial(_probe, uri))
    create = functools.partial(MlflowClient, tracking_uri=uri, registry_uri=registry_uri)
    client: MlflowClient = _attempt(uri, create, _CREATION, answers=frozenset())
    return cast("MlflowClient", _BoundedClient(client, uri))  # `__getattr__` gives it the client's methods


class _BoundedClient:
    """An MLflow client whose every method goes through `bounded`."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            return bounded(self._uri, functools.partial(method, *arguments, **options), transfer=name in _TRANSFERS)

        return call

    def create_run(self, experiment_id: str, *, key: str | None = None, **options: Any) -> Any:
        """Create a run once.

        Args:
            experiment_id: id of its experiment.
            key: the key with which an earlier process may have created it, so that it is looked for; None: none has.
            options: those of MLflow's client.
        """
        create = functools.partial(self._client.create_run, experiment_id)
        return self._create_once(create, lambda query: self._client.search_runs([experiment_id], query), options, key)

    def create_logged_model(self, experiment_id: str, **options: Any) -> Any:
        """Create a logged model once."""
        create = functools.partial(self._client.create_logged_model, experiment_id)
        return self._create_once(
            create, lambda query: self._client.search_logged_models([experiment_id], query), options
        )

    def create_model_version(self, name: str, source: str, **options: Any) -> Any:
        """Create a version once."""
        create = functools.partial(self._client.create_model_version, name, source)
        return self._create_once(
            create, lambda query: self._client.search_model_versions(f"name = '{name}' and {query}"), options
        )

    def _create_once(
        self, create: Callable[..., Any], search: Callable[[str], Any], options: dict[str, Any], key: str | None = None
    ) -> Any:
        """Create what MLflow gives a new id each time, unless an attempt without an answer has created it."""
        attempts = itertools.count(0 if key is None else 1)
        key = key or uuid.uuid4().hex
        tags = {**(options.pop("tags", None) or {}), _KEY: key}

        def attempt() -> Any:
            created = search(f"tags.`{_KEY}` = '{key}'") if next(attempts) else []
            if created:
                return created[0]
            with _single_request():
                return create(tags=tags, **options)

        return bounded(self._uri, attempt)


@contextmanager
def _single_request() -> Iterator[None]:
    """Have MLflow's HTTP client not repeat a request itself, which would create again what it has created."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    previous = os.environ.get(name, _HTTP[name])
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ[name] = previous


def bounded(uri: str, function: Callable[[], T], *, transfer: bool = False) -> T:
    """Call the store within the time limits and translate its errors.

    A call that loses a race against another writer is repeated. In a run, so is a call to an unreachable store; if only
    its answer was lost, it is made twice.

    Args:
        uri: the store's URI, for messages.
        function: the call.
        transfer: whether the call transfers files; then only each of its requests is limited.

    Raises:
        StoreError: the store is unreachable, does not answer in time, or fails.
        RegistryError: other writers were faster each time.
        DiskFullError: the store has no space left.
        MlflowException: an answer about the request (`ANSWERS`).
    """
    _limit_http()
    begin = time.monotonic()
    lost_races = 0
    while True:
        try:
            return _attempt(uri, function, _TRANSFER if transfer else None, begin)
        except _LostRaceError:
            lost_races += 1
            if lost_races == _RACES:
                raise
        except _UnreachableError as error:
            seconds_left = begin + _patience.seconds - time.monotonic()
            if not _patience.retries or seconds_left < _RETRY_SECONDS:
                raise
            say(f"{error.args[0]}; asking again for up to {seconds_left / 60:.0f} more minutes")
            time.sleep(_RETRY_SECONDS)


def _attempt(
    uri: str,
    function: Callable[[], T],
    fixed_patience: Patience | None,
    begin: float | None = None,
    answers: frozenset[str] = ANSWERS,
) -> T:
    """Make a call once, in a separate thread that is abandoned at the time limit."""
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
    _join(thread, uri, fixed_patience, time.monotonic() if begin is None else begin)
    if outcome:
        return outcome[0]
    if not failure:
        raise _UnreachableError(_hanging(uri, _limit(uri, fixed_patience or _patience)))
    if (error := translate(failure[0], uri, answers)) is not None:
        raise error from failure[0]
    raise failure[0]


def _join(thread: threading.Thread, uri: str, fixed_patience: Patience | None, begin: float) -> None:
    """Wait for a call and print a notice if it takes long."""
    is_noticed = fixed_patience is not None
    thread.join(0.5)
    while thread.is_alive():
        waited = time.monotonic() - begin
        # Read again each time: an interrupted run lowers its limits.
        limit = _limit(uri, fixed_patience or _patience)
        if waited > limit:
            return
        if waited > _NOTICE_SECONDS and not is_noticed:
            say(f"waiting for MLflow at {redacted(uri)}")
            is_noticed = True
        thread.join(min(0.5, limit - waited))


def _limit(uri: str, current: Patience) -> float:
    return max(current.seconds, _SQLITE_SECONDS) if uri.startswith("sqlite") else current.seconds


class _UnreachableError(StoreError):
    """The store is unreachable now and may come back soon. Its argument says why; what to do comes with `str`."""

    def __str__(self) -> str:
        return f"{self.args[0]}; see that it runs and can be reached, then run again"


class _LostRaceError(RegistryError):
    """A loss against another process that wrote the same row at the same moment."""


# --- translation of errors --------------------------------------------------------------------------------------------


def translate(error: Exception, uri: str, answers: frozenset[str] = ANSWERS) -> PotstillError | None:
    """Translate an exception of a call into the error to show; None for an answer, and for one that no store raises."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, PotstillError):
        return error
    if (disk := full_disk(error, redacted(uri))) is not None:
        return disk
    if not isinstance(error, (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError)):
        return None
    text = " ".join(str(error).split())
    code = getattr(error, "error_code", "")
    if code in answers:
        return None
    if _lost_race(error, text):
        return _LostRaceError(f"another process wrote to {redacted(uri)} at the same moment and was first; run again")
    return _failure(error, text, code, uri)


def _failure(error: Exception, text: str, code: str, uri: str) -> StoreError:
    store = f"MLflow at {redacted(uri)}"
    if code in {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}:
        return StoreError(
            f"{store} refuses this user ({_reason(error, text, uri)}); check MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if code == "ENDPOINT_NOT_FOUND" or "valid JSON" in text or "JSONDecodeError" in text:
        return StoreError(
            f"what answers at {redacted(uri)} is no MLflow server; check MLFLOW_TRACKING_URI or servers.mlflow_url"
        )
    if any(isinstance(cause, ImportError) for cause in causes(error)):
        return StoreError(f"{store} needs a package that is not installed ({text}); install it, then run again")
    if "locked" in text:
        return _UnreachableError(f"{store} is locked by another process")
    reason = _reason(error, text, uri)
    if code in {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", ""}:
        return _UnreachableError(f"{store} does not answer as it should ({reason})")
    return StoreError(f"{store} failed ({reason})")


def _lost_race(error: Exception, text: str) -> bool:
    kinds = {type(cause).__name__ for cause in causes(error)}
    words = ("UNIQUE constraint failed", "UniqueViolation", "duplicate key value", "Duplicate entry", "IntegrityError")
    return "IntegrityError" in kinds or any(word in text for word in words)


def _reason(error: Exception, text: str, uri: str) -> str:
    """Describe an error in a few words, without the URLs and class names that HTTP libraries add."""
    for cause in causes(error):
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror):
            return "the host's name is not known"
        if isinstance(cause, TimeoutError) or type(cause).__name__ in {"ReadTimeout", "ConnectTimeout"}:
            return "no answer in time"
    if (status := re.search(r"too many (\d+) error responses", text)) is not None:
        return f"it answers with status {status[1]}"
    return redacted(text)[:300]


def _hanging(uri: str, seconds: float) -> str:
    if uri.startswith("sqlite"):
        return f"MLflow at {redacted(uri)} has not finished a call in {seconds:.0f} s, its disk or this machine is busy"
    return f"MLflow at {redacted(uri)} does not answer (nothing came in {seconds:.0f} s)"


# --- the connection ---------------------------------------------------------------------------------------------------


def _limit_http() -> None:
    """Limit MLflow's HTTP requests, unless the user has set limits."""
    for name, value in _HTTP.items():
        os.environ.setdefault(name, value)
    own_values = {None, *(str(limits.request_seconds) for limits in (COMMAND, RUN))}
    if os.environ.get(_REQUEST_SECONDS) in own_values:
        os.environ[_REQUEST_SECONDS] = str(_patience.request_seconds)


def _is_database(uri: str) -> bool:
    return uri.partition(":")[0].partition("+")[0] in {"sqlite", "postgresql", "mysql", "mssql"}


def _probe(uri: str) -> None:
    """Check that a database answers: MLflow itself would try ten times, for minutes."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def _create_database(path: Path) -> None:
    """Create MLflow's SQLite database atomically: neither a kill nor a full disk leaves a part of its tables."""
    from mlflow.tracking import MlflowClient

    with process_folder(path.parent, f".{path.name}.") as scratch:
        new = scratch / path.name
        uri = f"sqlite:///{new}"
        MlflowClient(tracking_uri=uri, registry_uri=uri)
        with suppress(OSError):  # another process has created it, or the file system has no hard links
            path.hardlink_to(new)
        if not path.exists():
            new.replace(path)
