"""The Prometheus metrics of a stream or a watched folder that is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from potstill.config.base import MetricsAddress
from potstill.errors import ToolError

_SECONDS = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)


class StreamMetrics:
    """Counters of records by outcome and of failed attempts to reach the server, and what waits.

    Attributes:
        records: by `outcome`: answered, rejected, or late, which another process had answered meanwhile.
        failures: failed attempts to reach the server.
        waiting: records by `state`: unread, or pending, which are read and not answered.
        seconds: seconds from when a record was written, by its id, to its answer.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.records = Counter("potstill_stream_records", "Records by outcome.", ["outcome"], registry=registry)
        self.failures = Counter("potstill_stream_failures", "Failed attempts to reach the server.", registry=registry)
        self.waiting = Gauge("potstill_stream_waiting", "Records without an answer.", ["state"], registry=registry)
        about_seconds = "Seconds from when a record was written to its answer."
        self.seconds = Histogram("potstill_stream_seconds", about_seconds, buckets=_SECONDS, registry=registry)


class FolderMetrics:
    """Counters of files and rows by outcome and of failed attempts to read, and what waits.

    Attributes:
        files: by `outcome`: answered, or failed, which were put aside.
        rows: by `outcome`: answered, or rejected, in the files that were answered.
        failures: failed attempts to read the folder or a file in it.
        waiting: files that are neither answered nor put aside.
        seconds: seconds from when a file was seen first, as it is, to its answers.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.files = Counter("potstill_folder_files", "Files by outcome.", ["outcome"], registry=registry)
        self.rows = Counter("potstill_folder_rows", "Rows by outcome.", ["outcome"], registry=registry)
        self.failures = Counter("potstill_folder_failures", "Failed attempts to read.", registry=registry)
        self.waiting = Gauge("potstill_folder_waiting", "Files without an answer.", registry=registry)
        about_seconds = "Seconds from when a file was seen first to its answers."
        self.seconds = Histogram("potstill_folder_seconds", about_seconds, buckets=_SECONDS, registry=registry)


@contextmanager
def metrics_server(registry: CollectorRegistry, settings: MetricsAddress, section: str) -> Iterator[None]:
    """Answer `/metrics` in a thread where `metrics_port` is set.

    Args:
        registry: the metrics.
        settings: the address.
        section: the section of the params that has it.

    Raises:
        ToolError: the address cannot be bound.
    """
    if settings.metrics_port is None:
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except (OSError, UnicodeError) as error:  # a UnicodeError: a name with a part that no domain has
        reason = getattr(error, "strerror", None) or error
        raise ToolError(
            f"cannot listen on {settings.metrics_host} port {settings.metrics_port} ({reason}); set "
            f"{section}.metrics_host and {section}.metrics_port in params.yaml"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
