"""Clients that send requests continuously, and their results."""

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
    """The results of the clients so far.

    Attributes:
        statuses: number of responses by status.
        failures: errors of the requests without a complete response.
        seconds: time of each request with a response.
        queued: milliseconds that each request waited in the queue, as the service reports.
        bentos: (time, Bento) of each response that names one.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    bentos: list[tuple[float, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def by_bento(self) -> Counter[str]:
        """Count the responses of each Bento."""
        return Counter(bento for _, bento in self.bentos)


@contextmanager
def load(
    address: str, body: Any, *, clients: int = 4, reconnecting: int = 1, pause_seconds: float = 0.005
) -> Iterator[Load]:
    """Send `POST /v1/classify` from several clients inside the context.

    Args:
        address: address of the service.
        body: the request's body.
        clients: number of clients; each keeps its connection.
        reconnecting: number of clients that open a new connection for every request.
        pause_seconds: pause of a client after a response, so that the service gets time on few cores.
    """
    results = Load()
    content = json.dumps(body).encode()
    threads = [
        threading.Thread(
            target=_ask, args=(results, address, content, number < reconnecting, pause_seconds), daemon=True
        )
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        results.stopped.set()
        for thread in threads:
            thread.join(30)


def _ask(results: Load, address: str, content: bytes, reconnects: bool, pause_seconds: float) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    while not results.stopped.is_set():
        begin = time.monotonic()
        try:
            connection.request("POST", "/v1/classify", content, {"content-type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            results.failures.append(repr(error))
            time.sleep(0.01)
            continue
        results.seconds.append(time.monotonic() - begin)
        results.statuses[answer.status] += 1
        if answer.status == 200:
            results.queued.append(float(answer.headers["server-timing"].partition("queue;dur=")[2].partition(",")[0]))
            results.bentos.append((time.monotonic(), json.loads(body)["model"]["bento"]))
        if reconnects:
            connection.close()
        time.sleep(pause_seconds)
    connection.close()
