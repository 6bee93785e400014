"""Tests of a real uvicorn with bounded connections and slow clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from potstill.serving import connections
from potstill.serving.connections import HEAD_BYTES, BoundedConnection

TIME_LIMIT = 0.5
CHUNKED = b"POST /count HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


async def count(request: Request) -> PlainTextResponse:
    """Answer the size of the body, and the header x."""
    size = len(await request.body())
    return PlainTextResponse(f"{size} {request.headers.get('x')}")


APP = Starlette(
    routes=[Route("/count", count, methods=["POST"]), Route("/hello", lambda _: PlainTextResponse("hello"))]
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(APP, http=BoundedConnection, log_config=None, timeout_keep_alive=60))
    listener = socket.create_server(("127.0.0.1", 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "TIME_LIMIT", TIME_LIMIT)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(20)
        listener.close()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield connection


def until_closed(connection: socket.socket) -> tuple[bytes, float]:
    """Receive until the server closes the connection; return the data and the seconds."""
    received = b""
    begin = time.monotonic()
    while part := _receive(connection):
        received += part
    return received, time.monotonic() - begin


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def trickle(connection: socket.socket, pieces: int = 100) -> int:
    """Send single bytes slowly until the server closes the connection; return their number."""
    for sent in range(pieces):
        try:
            connection.sendall(b"a")
        except OSError:
            return sent
        time.sleep(TIME_LIMIT / 10)
    return pieces


@pytest.mark.parametrize("start", [b"", b"GET /hel", b"GET /hello HTTP/1.1\r\nhost: a\r\nx: "])
def test_a_head_has_a_time_limit(port: int, start: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(start)
        received, seconds = until_closed(connection)
    assert received == b""
    assert TIME_LIMIT * 0.8 < seconds < 10


def test_a_slow_head_has_the_same_time_limit(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /hello HTTP/1.1\r\nhost: a\r\nx: ")
        assert trickle(connection) < 50


@pytest.mark.slow
def test_a_pause_between_requests_does_not_count_in_the_time_limit(port: int) -> None:
    whole = b"GET /hello HTTP/1.1\r\nhost: a\r\n\r\n"
    with connected(port) as connection:
        for _ in range(2):
            connection.sendall(whole[:10])
            time.sleep(TIME_LIMIT / 5)
            connection.sendall(whole[10:])
            assert connection.recv(65536).endswith(b"hello")
            time.sleep(TIME_LIMIT * 1.5)
        connection.sendall(whole[:10])
        assert until_closed(connection)[0] == b""


@pytest.mark.parametrize("start", [b"GET /hello HTTP/1.1\r\nhost: a\r\nx: ", CHUNKED + b"0\r\nx: "])
@pytest.mark.parametrize("part", [b"a" * 1000, b"a: b\r\n" * 200])
def test_a_head_without_end_is_refused(port: int, start: bytes, part: bytes) -> None:
    with connected(port) as connection, pytest.raises(OSError, match=r"reset|pipe"):
        connection.sendall(start)
        for _ in range(100 * HEAD_BYTES // len(part)):
            connection.sendall(part)


def test_what_follows_a_body_is_no_header_of_the_request(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(CHUNKED + b"1\r\na\r\n0\r\nx: y\r\n\r\n")
        assert connection.recv(65536).endswith(b"1 None")


def test_a_long_head_is_accepted(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /hello HTTP/1.1\r\nhost: a\r\nx: ")
        for _ in range(HEAD_BYTES // 2000):
            connection.sendall(b"a" * 1000)
        connection.sendall(b"\r\n\r\n")
        assert connection.recv(65536).endswith(b"hello")


def test_the_body_of_an_open_request_has_no_time_limit_here(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"POST /count HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n")
        assert trickle(connection, 20) == 20  # twice the limit
        assert connection.recv(65536).endswith(b"20 None")


def test_the_body_of_an_answered_request_has_a_time_limit(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"POST /hello HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n")
        assert b" 405 " in connection.recv(65536)
        assert trickle(connection) < 50


def test_an_offer_of_http2_leaves_the_request_as_it_is(port: int) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
    head = b"POST /count HTTP/1.1\r\nhost: a\r\n" + offer + b"content-length: 18\r\n\r\n"
    body = b"\r\nUpgrade: h2c\r\n.."
    with connected(port) as connection:
        for parts in ([head + body], [head, body]):
            for part in parts:
                connection.sendall(part)
                time.sleep(0.05)
            assert connection.recv(65536).endswith(b"18 None")


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    body = b"a" * 100_000
    request = b"POST /count HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    last = b"GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    with connected(port) as connection:
        connection.sendall(request * 3 + last)
        received, _ = until_closed(connection)
    assert received.count(b" 200 OK") == 4
    assert received.count(b"100000") == 3
    assert received.endswith(b"hello")
