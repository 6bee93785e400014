"""What the service counts, as Prometheus metrics; and a request's own record."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from potstill.serving.batching import Times

# Where a request's record is in its ASGI scope.
RECORD = "potstill"
# Set in the scope of a request that is none of the users': its texts are not watched.
TRIAL = "potstill.trial"
_SANE = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TOKENS = (8, 16, 32, 64, 128, 256, 512)


@dataclass
class Record:
    """One request.

    Attributes:
        id: the caller's, where it is sane, else made.
        start: of `time.perf_counter`.
        times: of the line and the model, where it got so far.
        key: the name of the API key.
    """

    id: str
    start: float = field(default_factory=time.perf_counter)
    times: Times | None = None
    key: str | None = None

    def server_timing(self) -> str:
        """Milliseconds in the form of the Server-Timing header."""
        times = self.times
        parts = [] if times is None else [("queue", times.queue), ("tokenize", times.tokenize), ("infer", times.infer)]
        parts.append(("total", time.perf_counter() - self.start))
        return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts)


def request_id(given: bytes | None) -> str:
    """The caller's request id where it is short and plain, else a new one."""
    return given.decode("ascii") if given is not None and _SANE.fullmatch(given) else uuid.uuid4().hex


def record_of(scope: Mapping[str, Any]) -> Record:
    """The record of a request that came through `front.Tracked`."""
    record: Record = scope[RECORD]
    return record


class Metrics:
    """Counts of one process. Told by the line (`batching.Listener`) and by the front."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Histogram(
            "potstill_request_seconds",
            "From a request's arrival to the end of its answer.",
            ["endpoint", "status"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._waiting = Gauge("potstill_queue_texts", "Texts that wait for a core.", registry=self.registry)
        self._queue = Histogram(
            "potstill_queue_seconds",
            "How long answered requests waited for a core.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._rows = Counter("potstill_batch_rows", "Rows that were computed.", registry=self.registry)
        self._tokens = Histogram(
            "potstill_batch_tokens",
            "Tokens of a call of the model, the padded ones included.",
            buckets=_TOKENS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "potstill_refused",
            "Requests that got no answer: the line was full, they waited too long, their caller left, or had no key.",
            ["reason"],
            registry=self.registry,
        )
        for reason in ("full", "late", "left", "key"):
            self._refusals.labels(reason)

    def watch(self, waiting: Callable[[], int]) -> None:
        """Ask here how many texts wait."""
        self._waiting.set_function(waiting)

    def batch(self, rows: int, tokens: int) -> None:
        """See `batching.Listener`."""
        self._rows.inc(rows)
        self._tokens.observe(tokens)

    def refused(self, why: str) -> None:
        """See `batching.Listener`; and `key`: it had none."""
        self._refusals.labels(why).inc()

    def waited(self, seconds: float) -> None:
        """See `batching.Listener`."""
        self._queue.observe(seconds)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request is at its end."""
        self._requests.labels(endpoint, str(status)).observe(seconds)

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return bytes(generate_latest(self.registry))
