"""Tests with MLflow servers and databases that are unreachable, hang, refuse or fail, all on loopback."""

from __future__ import annotations

import contextlib
import errno
import pickle
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from potstill.compute.processes import free_port
from potstill.errors import DiskFullError, RegistryError, StoreError
from potstill.registry import store_calls as store
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from tests.registries import PROJECT, add_version


class FixedResponse(BaseHTTPRequestHandler):
    """A server that answers every request alike."""

    status = 200
    body = b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET  # noqa: N815  # the names are http.server's

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


@contextlib.contextmanager
def server(status: int, body: bytes) -> Iterator[str]:
    """Run a server with one fixed response and yield its address."""
    kind = type("Kind", (FixedResponse,), {"status": status, "body": body})
    with HTTPServer(("127.0.0.1", 0), kind) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def shorten_limits(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Shorten the time limits."""
    limits = {"seconds": 1.0, "request_seconds": 5, "retries": False} | changes
    monkeypatch.setattr(store, "_patience", store.Patience(**limits))  # type: ignore[arg-type]


def champion_at(uri: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    Registry(workspace, PROJECT).by_alias("champion")


def test_a_server_that_never_answers_is_an_error_within_seconds(
    silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_limits(monkeypatch)
    begin = time.monotonic()
    with pytest.raises(StoreError, match=r"MLflow at http://127.* does not answer \(nothing came in 1 s\); see that"):
        champion_at(silent_server, tmp_path, monkeypatch)
    assert time.monotonic() - begin < 5
    assert store.COMMAND.seconds + 5 <= 15


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("http://127.0.0.1:{port}", "connection refused"),
        ("http://me:secret@127.0.0.1:{port}", r"MLflow at http://\*\*\*@127"),
        # Longer than names can be: the resolver refuses it without asking another machine.
        (f"http://{'nowhere.' * 32}invalid", "the host's name is not known"),
        ("postgresql://me:secret@127.0.0.1:{port}/x", r"(?i)MLflow at postgresql://\*\*\*@127.*connection refused"),
        ("file:///tmp/x", "maintenance mode"),
    ],
)
def test_an_unreachable_store(uri: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=sentence) as raised:
        champion_at(uri.format(port=free_port()), tmp_path, monkeypatch)
    assert "secret" not in str(raised.value)
    assert raised.value.exit_code == 53
    # `potstill status` and the steps of a run receive it from another process.
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (200, b"<html>welcome</html>", "is no MLflow server"),
        (404, b"<html>not here</html>", "is no MLflow server"),
        (503, b"<html>busy</html>", "it answers with status 503"),
        (500, b"{}", "it answers with status 500"),
        (401, b"<html>who?</html>", "refuses this user"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', "refuses this user"),
    ],
)
def test_a_server_that_is_not_mlflow_or_refuses(
    status: int, body: bytes, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(status, body) as address, pytest.raises(StoreError, match=sentence):
        champion_at(address, tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_run_waits_for_a_server_that_restarts_and_prints_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_limits(monkeypatch, seconds=20.0, retries=True)
    monkeypatch.setattr(store, "_RETRY_SECONDS", 0.2)
    port = free_port()

    def come_back() -> None:
        time.sleep(1)
        kind = type("Kind", (FixedResponse,), {"body": b'{"model_version": {"name": "x", "version": "7"}}'})
        with HTTPServer(("127.0.0.1", port), kind) as listening:
            listening.handle_request()

    threading.Thread(target=come_back, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    champion = Registry(tmp_path, PROJECT).by_alias("champion")
    assert champion is not None
    assert champion.version == "7"
    assert "connection refused); asking again for up to" in capsys.readouterr().out


def test_a_run_whose_creation_was_not_answered_is_not_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_limits(monkeypatch, seconds=20.0, retries=True)
    monkeypatch.setattr(store, "_RETRY_SECONDS", 0.2)
    asked = []

    class SilentCreation(FixedResponse):
        body = b'{"runs": [{"info": {"run_id": "7"}, "data": {}}]}'

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path.rpartition("/")[2])
            if asked[-1] != "create":
                self.do_GET()

    with HTTPServer(("127.0.0.1", 0), SilentCreation) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.server_port}")
        run = tracking.client(tmp_path).create_run("1", tags={})
        listening.shutdown()
    assert run.info.run_id == "7"
    assert asked == ["create", "search"]


@pytest.mark.slow
def test_a_locked_database_is_an_error_within_seconds(registry: Registry) -> None:
    add_version(registry, "one")
    with contextlib.closing(sqlite3.connect(registry.workspace / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="is locked by another process"):
            registry.by_alias("challenger")
        other.rollback()
    assert registry.by_alias("challenger") is not None


def test_a_slow_call_of_a_database_is_not_taken_for_a_locked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_limits(monkeypatch, seconds=0.1)
    monkeypatch.setattr(store, "_SQLITE_SECONDS", 2.0)
    finished = []
    store.bounded("sqlite:///x", lambda: finished.append(time.sleep(0.7)))
    assert finished == [None]
    with pytest.raises(StoreError, match=r"has not finished a call in 2 s, its disk or this machine is busy; see that"):
        store.bounded("sqlite:///x", lambda: time.sleep(4))


def test_a_creation_that_hangs_names_its_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SQLITE_SECONDS", 0.5)
    monkeypatch.setattr(store, "_CREATION", store.Patience(seconds=1.0, request_seconds=4, retries=False))
    monkeypatch.setattr("mlflow.tracking.MlflowClient", lambda **_: time.sleep(3))
    with pytest.raises(StoreError, match="has not finished a call in 1 s"):
        tracking.client(tmp_path)


def test_a_new_database_is_created_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(**uris: str) -> None:
        Path(uris["tracking_uri"].removeprefix("sqlite:///")).write_bytes(b"half of the tables")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mlflow.tracking.MlflowClient", crash)
    (tmp_path / f".mlflow.db.{2**30}-killed").mkdir()  # no system has processes of that number
    with pytest.raises(DiskFullError, match="no space left while writing sqlite:///"):
        tracking.client(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_about_the_request_stays_an_mlflow_exception(registry: Registry) -> None:
    with pytest.raises(MlflowException, match="not found"):
        tracking.client(registry.workspace).get_model_version("nobody", "1")


def test_the_loser_of_a_race_gets_a_registry_error(registry: Registry) -> None:
    from sqlalchemy import text

    add_version(registry, "one")
    inner = tracking.client(registry.workspace)._get_registry_client().store

    def insert_twice() -> None:
        with inner.ManagedSessionMaker(read_only=False) as session:
            session.execute(text("INSERT INTO registered_models (workspace, name) VALUES ('default', 'x')"))
            session.execute(text("INSERT INTO registered_models (workspace, name) VALUES ('default', 'x')"))

    with pytest.raises(RegistryError, match=r"at the same moment and was first; run again"):
        store.bounded("sqlite:///x", insert_twice)


def test_a_full_disk_is_recognised_inside_an_mlflow_exception() -> None:
    def write() -> None:
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", "x.db")
        except OSError as error:
            raise MlflowException("could not write") from error

    with pytest.raises(DiskFullError, match=r"no space left while writing /.*/x\.db; free some"):
        store.bounded("sqlite:///x", write)


def test_an_unrelated_exception_is_not_blamed_on_the_store() -> None:
    with pytest.raises(ZeroDivisionError):
        store.bounded("sqlite:///x", lambda: 1 // 0)
