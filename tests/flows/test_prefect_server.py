"""Addresses of Prefect's API: which answer, and how messages show them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import create_server
from typing import Any

import pytest

from flows.commands.local_servers import _schedule
from flows.engine.prefect_server import answers, wait_ready
from potstill.errors import ToolError


class Healthy(BaseHTTPRequestHandler):
    """A server whose database is away at the first call that needs it."""

    calls = 0

    def do_GET(self) -> None:
        needs_database = not self.path.endswith("/health")
        Healthy.calls += needs_database
        self.send_response(500 if needs_database and Healthy.calls == 1 else 200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def healthy() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_user_and_a_password_in_the_address_do_no_harm(healthy: int) -> None:
    assert answers(f"http://user:secret@127.0.0.1:{healthy}/api/health")


def test_what_speaks_no_http_does_not_answer() -> None:
    with create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=greet, daemon=True).start()
        assert not answers(f"http://127.0.0.1:{listening.getsockname()[1]}/api/health")
    assert not answers("no address/health")


def test_a_server_whose_database_is_away_for_a_moment_is_asked_again(healthy: int) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{healthy}/api"}):
        wait_ready(None)


def test_a_password_is_not_shown() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    api = "http://user:secret@127.0.0.1/api"  # nothing listens on port 80
    sentence = r"API at http://\*\*\*@127.0.0.1/api does not answer"
    with temporary_settings({PREFECT_API_URL: api}), pytest.raises(ToolError, match=sentence):
        wait_ready(None, 0.0)
    assert _schedule("http://user:secret@prefect.example.org/api", None).url == "http://***@prefect.example.org"
