"""An object store with an S3 API for tests: OpenStack Swift from Debian's packages, with one device in a folder."""

from __future__ import annotations

import getpass
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from potstill.compute.processes import free_port, start, stop
from tests.flows.conftest import until

PROGRAMS = ("swift-proxy-server", "swift-account-server", "swift-container-server", "swift-object-server", "memcached")
KINDS = ("account", "container", "object")

# Multipart uploads of the S3 API are Swift's large objects (slo). Its own accounts (tempauth) need the cache.
# An answer without a body gets its length from proxy-logging; without one, connections cannot be used again.
_PROXY_CONFIGURATION = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
user = {user}
workers = 0
[pipeline:main]
pipeline = catch_errors gatekeeper proxy-logging cache listing_formats s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{cache_port}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:slo]
use = egg:swift#slo
[filter:tempauth]
use = egg:swift#tempauth
user_test_potstill = {secret} .admin
"""
_STORAGE_CONFIGURATION = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
user = {user}
workers = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_RINGS = """
import sys
from swift.common.ring import RingBuilder
folder, *ports = sys.argv[1:]
for kind, port in zip(("account", "container", "object"), ports):
    builder = RingBuilder(1, 1, 0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{kind}.ring.gz")
"""


@dataclass(frozen=True)
class ObjectStore:
    """A running store: the address of its S3 API, and the key that it takes."""

    url: str
    key: str
    secret: str

    @property
    def variables(self) -> dict[str, str]:
        """The environment with which clients find it and are let in."""
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def need_object_store() -> None:
    """Skip where Swift is not installed; where CI is set, a skip fails."""
    missing = [program.removesuffix("-server") for program in PROGRAMS if not shutil.which(program)]
    if missing:
        pytest.skip(f"an object store is not installed (apt-get install {' '.join(missing)})")


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run a store that is empty."""
    with tempfile.TemporaryDirectory(prefix="potstill-swift-") as name, ExitStack() as running:
        folder, secret = Path(name), secrets.token_hex(16)
        (folder / "devices/disk").mkdir(parents=True)
        ports = {kind: free_port() for kind in (*KINDS, "proxy", "cache")}
        values = {"folder": folder, "user": getpass.getuser(), "secret": secret, "cache_port": ports["cache"]}
        _write_rings(folder, [ports[kind] for kind in KINDS])
        for kind in (*KINDS, "proxy"):
            configuration = _PROXY_CONFIGURATION if kind == "proxy" else _STORAGE_CONFIGURATION
            path = folder / f"{kind}.conf"
            path.write_text(configuration.format(**values, port=ports[kind], kind=kind), encoding="utf-8")
            command = [f"swift-{kind}-server", str(path), "--verbose"]
            running.enter_context(_serving(command, folder / f"{kind}.log"))
        cache = ["memcached", "-l", "127.0.0.1", "-p", str(ports["cache"]), "-u", getpass.getuser()]
        running.enter_context(_serving(cache, folder / "cache.log"))
        for kind, port in ports.items():
            assert until(partial(_accepts, port)), (folder / f"{kind}.log").read_text()
        yield ObjectStore(f"http://127.0.0.1:{ports['proxy']}", "test:potstill", secret)


def _write_rings(folder: Path, ports: Sequence[int]) -> None:
    """Write where each kind of server is: one replica on one device. Swift is a package of Debian's own Python."""
    command = ["/usr/bin/python3", "-c", _RINGS, str(folder), *map(str, ports)]
    subprocess.run(command, check=True, env={}, stdout=subprocess.DEVNULL)


@contextmanager
def _serving(command: Sequence[str], path: Path) -> Iterator[None]:
    """Run a server; its output goes to a file."""
    with path.open("wb") as log:
        server = start(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            stop(server)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
