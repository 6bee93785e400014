"""An object store with an S3 API for tests: OpenStack Swift from Debian's packages, with one device in a folder."""

from __future__ import annotations

import getpass
import secrets
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from potstill.compute.processes import free_port, start, stop
from tests.flows.conftest import until

PROGRAMS = ("swift-proxy-server", "swift-account-server", "swift-container-server", "swift-object-server", "memcached")
KINDS = ("account", "container", "object", "proxy")

# Multipart uploads of the S3 API are Swift's large objects (slo). Its own accounts (tempauth) need the cache.
# An answer without a body gets its length from proxy-logging; without one, connections cannot be used again.
_PROXY_CONFIGURATION = """
[DEFAULT]
swift_dir = {folder}
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
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
# Swift's servers, all in one process, which imports it once. A ring says where a kind of server keeps its data.
_SERVERS = """
import sys
from swift.common.utils import eventlet_monkey_patch
eventlet_monkey_patch()
import eventlet
from eventlet import wsgi
from swift.common.http_protocol import SwiftHttpProtocol
from swift.common.ring import RingBuilder
from swift.common.wsgi import loadapp
folder, *ports = sys.argv[1:]
servers = []
for kind, port in zip(("account", "container", "object", "proxy"), map(int, ports)):
    if kind != "proxy":
        builder = RingBuilder(1, 1, 0)
        builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "disk", "weight": 1})
        builder.rebalance()
        builder.get_ring().save(f"{folder}/{kind}.ring.gz")
    app, listener = loadapp(f"{folder}/{kind}.conf"), eventlet.listen(("127.0.0.1", port))
    options = {"protocol": SwiftHttpProtocol, "capitalize_response_headers": False}  # S3 clients want ETag, not Etag
    servers.append(eventlet.spawn(wsgi.server, listener, app, **options))
for server in servers:
    server.wait()
"""


@dataclass(frozen=True)
class ObjectStore:
    """A running store: the address of its S3 API, the key that it takes, and the folder of its data."""

    url: str
    key: str
    secret: str
    data: Path

    @property
    def variables(self) -> dict[str, str]:
        """The environment with which clients reach it and are let in."""
        return {
            "MLFLOW_S3_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def create_bucket(self, name: str) -> None:
        """Create an empty bucket, through Swift's older API."""
        user = {"X-Storage-User": self.key, "X-Storage-Pass": self.secret}
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/auth/v1.0", headers=user)) as answer:
            account, token = answer.headers["X-Storage-Url"], {"X-Auth-Token": answer.headers["X-Auth-Token"]}
        urllib.request.urlopen(urllib.request.Request(f"{account}/{name}", headers=token, method="PUT")).close()


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
        ports = {kind: free_port() for kind in (*KINDS, "cache")}
        values = {"folder": folder, "secret": secret, "cache_port": ports["cache"]}
        for kind in KINDS:
            configuration = _PROXY_CONFIGURATION if kind == "proxy" else _STORAGE_CONFIGURATION
            path = folder / f"{kind}.conf"
            path.write_text(configuration.format(**values, kind=kind), encoding="utf-8")
        log = folder / "log.txt"
        # Swift is a package of Debian's own Python.
        command = ["/usr/bin/python3", "-c", _SERVERS, str(folder), *(str(ports[kind]) for kind in KINDS)]
        running.enter_context(_serving(command, log))
        cache = ["memcached", "-l", "127.0.0.1", "-p", str(ports["cache"]), "-u", getpass.getuser()]
        running.enter_context(_serving(cache, folder / "cache.txt"))
        for port in ports.values():
            assert until(partial(_accepts, port), 60), log.read_text()
        address = f"http://127.0.0.1:{ports['proxy']}"
        yield ObjectStore(address, "test:potstill", secret, folder / "devices")


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
