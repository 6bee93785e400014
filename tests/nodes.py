"""Two machines for tests: network namespaces with an address each, joined by a cable (Debian's iproute2)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Node:
    """One of the machines: a name of `ip netns`, and its address."""

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The command line that runs a command there, as the same process."""
        return ["ip", "netns", "exec", self.name, *words]


def need_namespaces() -> None:
    """Skip where this user cannot make network namespaces; where CI is set, a skip fails."""
    if shutil.which("ip") is None:
        reason = "iproute2 is not installed (apt-get install iproute2)"
    else:
        done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
        if done.returncode == 0:
            return
        reason = (
            f"network namespaces cannot be made here ({done.stderr.strip()}); run as root, a container with the "
            "capabilities SYS_ADMIN and NET_ADMIN"
        )
    pytest.skip(reason)


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Make two machines on a network of their own; nothing else is reached from them."""
    first, second = (Node(f"potstill-{os.getpid()}-{number}", f"10.77.0.{number}") for number in (1, 2))
    with ExitStack() as stack:
        for node in (first, second):
            _ip("netns", "add", node.name)
            stack.callback(_remove, node)
        _ip("link", "add", "cable", "netns", first.name, "type", "veth", "peer", "name", "cable", "netns", second.name)
        for node in (first, second):
            _ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", node.name, "link", "set", device, "up")
        yield first, second


def _remove(node: Node) -> None:
    """Remove a machine, and end what a failed test has left running there."""
    for pid in _ip("netns", "pids", node.name).split():
        os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", node.name)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True).stdout
