"""Clients that ask a service without a pause, and what came of each request."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Load:
    """What the clients have seen so far.

    Attributes:
        statuses: how often each status was answered.
        failures: requests without a whole answer, each by its error.
        seconds: time of each answered request.
        queued: milliseconds that each answered request waited for its turn, as the service says.
        bentos: (time, Bento) of each answer that names one.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    bentos: list[tuple[float, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def seen(self) -> Counter[str]:
        """How many answers came from which Bento."""
        return Counter(bento for _, bento in self.bentos)


@contextmanager
def load(
    address: str, body: Any, *, clients: int = 4, reconnecting: int = 1, pause_seconds: float = 0.005
) -> Iterator[Load]:
    """Clients that ask `POST /v1/classify` until the block ends.

    Args:
        address: of the service.
        body: the request's body.
        clients: how many; each keeps its connection, as clients do.
        reconnecting: how many of them make a new connection for every request.
        pause_seconds: of each client after an answer, so that on few cores the service gets its turn.
    """
    found = Load()
    content = json.dumps(body).encode()
    threads = [
        threading.Thread(target=_ask, args=(found, address, content, number < reconnecting, pause_seconds), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.stopped.set()
        for thread in threads:
            thread.join(30)


def _ask(found: Load, address: str, content: bytes, reconnects: bool, pause_seconds: float) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    while not found.stopped.is_set():
        begin = time.monotonic()
        try:
            connection.request("POST", "/v1/classify", content, {"content-type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            found.failures.append(repr(error))
            time.sleep(0.01)
            continue
        found.seconds.append(time.monotonic() - begin)
        found.statuses[answer.status] += 1
        if answer.status == 200:
            found.queued.append(float(answer.headers["server-timing"].partition("queue;dur=")[2].partition(",")[0]))
            found.bentos.append((time.monotonic(), json.loads(body)["model"]["bento"]))
        if reconnects:
            connection.close()
        time.sleep(pause_seconds)
    connection.close()
