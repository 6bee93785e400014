"""The Prometheus metrics of the service, and the record of a request."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from potstill.serving.batching import Times

Kind = TypeVar("Kind")
# Key of a request's record in its ASGI scope.
RECORD = "potstill"
# Set in the ASGI scope of a test request, whose texts are not watched.
TRIAL = "potstill.trial"
_VALID_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TOKENS = (8, 16, 32, 64, 128, 256, 512)


@dataclass
class Record:
    """The record of a request.

    Attributes:
        id: the caller's request id if it is valid, else a new one.
        start: arrival, by `time.perf_counter`.
        times: times in the queue and the model; None for a request that did not get there.
        key: name of the API key.
    """

    id: str
    start: float = field(default_factory=time.perf_counter)
    times: Times | None = None
    key: str | None = None

    def server_timing(self) -> str:
        """Format the times in milliseconds for the Server-Timing header."""
        parts: list[tuple[str, float]] = []
        if self.times is not None:
            parts += [("queue", self.times.queue), ("tokenize", self.times.tokenize), ("infer", self.times.infer)]
        parts.append(("total", time.perf_counter() - self.start))
        return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts)


def request_id(header: bytes | None) -> str:
    """Return the caller's request id if it is short and plain ASCII, else a new one."""
    if header is None or not _VALID_ID.fullmatch(header):
        return uuid.uuid4().hex
    return header.decode("ascii")


def record_of(scope: Mapping[str, Any]) -> Record:
    """Return the record of a request, which `middleware.RequestTracker` has created."""
    record: Record = scope[RECORD]
    return record


def create_metric(
    registry: CollectorRegistry, kind: Callable[..., Kind], name: str, description: str, *labels: str, **options: Any
) -> Kind:
    """Create a metric `potstill_<name>` in a registry."""
    return kind(f"potstill_{name}", description, labels, registry=registry, **options)


class Metrics:
    """The metrics of a process, fed by the queue (as its `batching.Listener`) and by the middleware."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        create = partial(create_metric, self.registry)
        about_requests = "Seconds from the arrival of a request to the end of its response."
        self._requests = create(Histogram, "request_seconds", about_requests, "endpoint", "status", buckets=_SECONDS)
        self._waiting = create(Gauge, "queue_texts", "Texts that wait for a core.")
        about_queue = "Seconds that answered requests waited for a core."
        self._queue = create(Histogram, "queue_seconds", about_queue, buckets=_SECONDS)
        self._rows = create(Counter, "batch_rows", "Rows that were computed.")
        about_tokens = "Tokens of a call of the model, padding included."
        self._tokens = create(Histogram, "batch_tokens", about_tokens, buckets=_TOKENS)
        about_refusals = "Requests without an answer: queue full, waited too long, caller left, or no key."
        self._refusals = create(Counter, "refused", about_refusals, "reason")
        about_abstentions = "Texts answered by a model with a threshold, by whether it abstained."
        self._abstentions = create(Counter, "threshold_texts", about_abstentions, "abstained")
        for reason in ("full", "late", "left", "key"):
            self._refusals.labels(reason)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Set the function that returns the number of waiting texts."""
        self._waiting.set_function(waiting)

    def batch(self, rows: int, tokens: int) -> None:
        """See `batching.Listener`."""
        self._rows.inc(rows)
        self._tokens.observe(tokens)

    def refused(self, reason: str) -> None:
        """See `batching.Listener`; the middleware adds `key`, a request without a valid key."""
        self._refusals.labels(reason).inc()

    def waited(self, seconds: float) -> None:
        """See `batching.Listener`."""
        self._queue.observe(seconds)

    def abstained(self, flags: Sequence[bool]) -> None:
        """Count the texts of a request by whether the model abstained."""
        for name, number in (("true", sum(flags)), ("false", len(flags) - sum(flags))):
            self._abstentions.labels(name).inc(number)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        self._requests.labels(endpoint, str(status)).observe(seconds)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return bytes(generate_latest(self.registry))
