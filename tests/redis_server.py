"""A Redis server for tests, from Debian's package."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from potstill.compute.processes import free_port, start, stop


def need_redis() -> None:
    """Skip where Redis is not installed; where CI is set, a skip fails."""
    if shutil.which("redis-server"):
        return
    pytest.skip("redis-server is not installed (apt-get install redis-server)")


class RedisServer:
    """A server whose data survives a restart.

    Attributes:
        url: of its first database.
        client: connected to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        port = free_port()
        self._command = ["redis-server", "--port", str(port), "--dir", str(folder), "--appendonly", "yes"]
        self._command += ["--appendfsync", "always", "--save", "", "--bind", "127.0.0.1"]
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = Redis(port=port)

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = start(self._command, stdout=log, stderr=log)
        for _ in range(1000):
            try:
                self.client.ping()
                return
            except ConnectionError:
                time.sleep(0.01)
        raise AssertionError((self._folder / "log").read_text())

    def stop(self) -> None:
        stop(self._process)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Run a server that keeps its data in a folder."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.client.close()
        server.stop()
