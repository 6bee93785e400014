from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from potstill.compute.processes import free_port
from potstill.errors import RegistryError, StoreError
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.registry.store_reader import reader
from potstill.registry.versions import CHAMPION, PREVIOUS
from tests.conftest import REPOSITORY
from tests.registries import PROJECT, add_version

READ = f"""
import sys
from pathlib import Path
from potstill.registry.promotion import Registry
from potstill.registry.store_reader import reader
registry = Registry(Path(sys.argv[1]), "{PROJECT}", reader(Path(sys.argv[1])))
print(registry.champion().version, len(registry.ledger.lines()), [item.version for item in registry.versions()])
assert "mlflow" not in sys.modules
"""


@pytest.mark.slow
def test_what_is_read_is_what_mlflow_reads(registry: Registry) -> None:
    for content in ("one", "two", "three"):
        add_version(registry, content)
    registry.promote("1", expected=None)
    registry.promote("2", expected="1")
    tracking.client(registry.workspace).delete_model_version(PROJECT, "3")
    fast = Registry(registry.workspace, PROJECT, reader(registry.workspace))
    assert fast.ledger.lines() == registry.ledger.lines()
    assert fast.versions() == registry.versions()
    assert fast.by_alias(CHAMPION) == registry.by_alias(CHAMPION)
    assert fast.by_alias(PREVIOUS) == registry.by_alias(PREVIOUS)
    assert fast.by_alias("nobody") is None
    with pytest.raises(RegistryError, match="no version '3'"):
        fast.get("3")
    assert Registry(registry.workspace, "other", reader(registry.workspace)).ledger.lines() == []
    command = [sys.executable, "-c", READ, str(registry.workspace)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == f"2 {len(registry.ledger.lines())} ['2', '1']\n", done.stderr
    assert fast.aliases() == registry.aliases() == {CHAMPION: "2", PREVIOUS: "1"}
    assert Registry(registry.workspace, "other", reader(registry.workspace)).aliases() == {}
    # Everything else is MLflow's own client's.
    assert fast._client.search_registered_models()[0].name == PROJECT
    # Another schema is left to MLflow's client, which has its own sentence for it.
    with closing(sqlite3.connect(registry.workspace / "mlflow.db")) as database:
        database.execute("alter table registered_model_aliases rename column workspace to place")
        database.commit()
    with pytest.raises(Exception, match="registered_model_aliases"):
        fast.by_alias(CHAMPION)


class Answers(BaseHTTPRequestHandler):
    """An MLflow server of one version, on two pages."""

    def do_GET(self) -> None:
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        version = {"name": "p", "version": "7", "source": "s", "run_id": "r", "tags": [{"key": "a", "value": "b"}]}
        content: dict[str, Any] | None = None
        if url.path.endswith("/get-by-name") and query["experiment_name"] == "p.ledger":
            content = {"experiment": {"experiment_id": "3", "name": "p.ledger", "lifecycle_stage": "active"}}
        elif url.path.endswith("/alias") and query == {"name": "p", "alias": "champion"}:
            content = {"model_version": version}
        elif url.path.endswith("/registered-models/get"):
            content = {"registered_model": {"name": "p", "aliases": [{"alias": "champion", "version": "7"}]}}
        elif url.path.endswith("/search"):
            more = {"next_page_token": "two"} if "page_token" not in query else {}
            content = {"model_versions": [version], **more}
        body = json.dumps(content or {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "none"}).encode()
        if query.get("name") == "proxied":
            content, body = None, b'["bad gateway"]'
        self.send_response(200 if content else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{running.server_port}/")
        yield "p"
        running.shutdown()


def test_a_server_is_asked_by_its_rest_api(server: str, tmp_path: Path) -> None:
    registry = Registry(tmp_path, server, reader(tmp_path))
    champion = registry.by_alias(CHAMPION)
    assert champion is not None
    assert (champion.version, champion.run_id, champion.source, champion.tags) == ("7", "r", "s", {"a": "b"})
    assert registry.by_alias(PREVIOUS) is None
    assert registry.aliases() == {CHAMPION: "7"}
    assert [item.version for item in registry.versions()] == ["7", "7"]
    assert registry.ledger.lines() == []
    assert Registry(tmp_path, "q", reader(tmp_path)).ledger.lines() == []


def test_an_error_that_is_not_mlflows_is_raised(server: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no MLflow server"):
        Registry(tmp_path, "proxied", reader(tmp_path)).by_alias(CHAMPION)


def test_a_server_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreError, match="connection refused"):
        Registry(tmp_path, "p", reader(tmp_path)).by_alias(CHAMPION)


def test_a_password_in_the_servers_address_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1")  # nothing listens on port 80
    with pytest.raises(StoreError, match=r"MLflow at http://\*\*\*@127.0.0.1 ") as refused:
        Registry(tmp_path, "p", reader(tmp_path)).by_alias(CHAMPION)
    assert "secret" not in str(refused.value)


def test_credentials_are_left_to_mlflows_client(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    assert reader(tmp_path) is tracking.client(tmp_path)
