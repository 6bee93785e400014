"""Redis Streams: records are read through a consumer group, and each is answered once.

The server keeps a record as pending from when it is read until it is acknowledged. A script of the server writes the
answer and acknowledges the record in one step, and only while the record is pending. So no answer is written twice:
not after a kill, nor where two processes have read the same record.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from potstill.config.stream_params import Stream
from potstill.errors import StreamError, ToolError, without_user

if TYPE_CHECKING:
    from redis import Redis

# KEYS: the stream that is read, that of the answers. ARGV: the group, the record's id, the arguments of XADD after its
# key. XADD comes before XACK: where it fails, the record stays pending.
_ANSWER = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return 0 end
redis.call('XADD', KEYS[2], unpack(ARGV, 3))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
_ADDRESS = re.compile(r"/(\d+)/(.+)")
# Seconds until a server that does not answer counts as away, and for which a read waits for new records.
_TIMEOUT = 20
_BLOCK = 1.0
# The year 2018, in which Redis got streams, in seconds since 1970.
_FIRST_TIME = 1_514_764_800
# What an XAUTOCLAIM that has seen all pending records returns.
_SEEN_ALL = b"0-0"

Fields = Mapping[bytes, bytes]


@dataclass(frozen=True)
class StreamAddress:
    """Where a stream is.

    Attributes:
        server: URL of the server and its database.
        shown: the same without credentials, as messages name it.
        key: of the stream.
    """

    server: str
    shown: str
    key: str

    def __str__(self) -> str:
        return f"{self.shown}/{self.key}"


class Record(NamedTuple):
    """An entry of the stream that is read: its id and its fields."""

    id: bytes
    fields: Fields


class Reply(NamedTuple):
    """An entry that answers a record: the record's id, the fields, and whether the record is put aside."""

    id: bytes
    fields: Fields
    rejected: bool

    def written(self, now: float) -> float:
        """Return the time at which the record was written, in seconds since 1970: by its id, if the server chose that.

        Args:
            now: is returned for an id that is no time, since a writer may number its records.
        """
        seconds = int(self.id.partition(b"-")[0]) / 1000
        return seconds if _FIRST_TIME < seconds < now else now


class Lag(NamedTuple):
    """The number of records that nobody has read yet (None: the server cannot tell), and of those not acknowledged."""

    unread: int | None
    pending: int


def parse_address(url: str) -> StreamAddress:
    """Parse `redis://[user:password@]host[:port]/db/stream`, or `rediss://` for TLS.

    Raises:
        StreamError: it is no such URL.
    """
    matched = None
    with suppress(ValueError):  # such as a port that is no number
        parts = urlsplit(url)
        if parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0:
            matched = _ADDRESS.fullmatch(parts.path)
    if matched is None or parts.query or parts.fragment:
        raise StreamError(
            f"{without_user(url)} names no stream; write it as redis://host:port/db/stream (%23 for a #, %3F for a ?)"
        )
    database, key = matched.groups()
    host = parts.netloc.rpartition("@")[2]
    server, shown = (f"{parts.scheme}://{location}/{database}" for location in (parts.netloc, host))
    return StreamAddress(server, shown, unquote(key))


class RecordStreams:
    """The stream that is read, that of the answers, and that of the records without one (`<answers>:rejected`).

    Every method raises what `is_away` knows while the server is away, and a StreamError for what stays wrong.

    Args:
        source: the stream to read.
        target: the stream of the answers, on the same server.
        settings: the section `stream`.

    Raises:
        ToolError: the package redis is not installed.
        StreamError: both are the same stream, or on different servers.
    """

    def __init__(self, source: StreamAddress, target: StreamAddress, settings: Stream) -> None:
        if source.shown != target.shown:
            raise StreamError(
                f"{source} and {target} are in different databases, but a record is acknowledged and answered in one "
                "step; name two streams of one database"
            )
        if source.key == target.key:
            raise StreamError(f"{source} cannot be read and answered to at once; name another stream with --to")
        self.source = source
        self.target = target
        self.rejected = f"{target.key}:rejected"
        self._settings = settings
        self._redis = _connect(source)
        self._script = self._redis.register_script(_ANSWER)
        self._consumer = f"{os.uname().nodename}-{os.getpid()}"
        self._claim_time = 0.0
        self._claim_start: bytes = _SEEN_ALL

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Check the streams, and join the consumer group, which begins with the oldest record; leave it at the end.

        Raises:
            StreamError: the server is away, or a key is not there or no stream.
        """
        from redis.exceptions import ConnectionError, TimeoutError

        try:
            with _refusals(self.source):
                self._check_kinds()
                self._create_group()
        except (ConnectionError, TimeoutError, UnicodeError) as error:  # a UnicodeError: a host that no domain can be
            raise StreamError(
                f"{self.source.shown} does not answer ({reason(error)}); check the address, and that Redis runs there"
            ) from error
        try:
            yield
        finally:
            self._leave()

    def _create_group(self) -> None:
        from redis.exceptions import ResponseError

        try:
            self._redis.xgroup_create(self.source.key, self._settings.group, id="0")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _check_kinds(self) -> None:
        for key in (self.source.key, self.target.key, self.rejected):
            answer: Any = self._redis.type(key)
            kind = answer.decode()
            if kind not in ("stream", "none"):
                raise StreamError(f"{key!r} in {self.source.shown} is a {kind} and no stream; name another key")
            if kind == "none" and key == self.source.key:
                raise StreamError(
                    f"{self.source.shown} has no stream {key!r}; check its name, or write a first record (XADD)"
                )

    def room(self) -> int:
        """Return how many records may be read now, so that their answers fit below `stream.max_length`."""
        settings = self._settings
        if settings.max_length is None or settings.when_full == "trim":
            return settings.batch
        with _refusals(self.target):
            return max(min(settings.batch, settings.max_length - self._redis.xlen(self.target.key)), 0)

    def read(self, count: int) -> list[Record]:
        """Read records: those that were read too long ago and not answered, else new ones, for which it waits a second.

        Args:
            count: most records.
        """
        with _refusals(self.source):
            claimed = self._claim(count)
            if claimed:
                return claimed
            answer: Any = self._redis.xreadgroup(
                self._settings.group, self._consumer, {self.source.key: ">"}, count, block=int(_BLOCK * 1000)
            )
            return _records(answer[0][1]) if answer else []

    def _claim(self, count: int) -> list[Record]:
        """Claim pending records, all of them in turn, and twice in `stream.claim_seconds`."""
        if time.monotonic() < self._claim_time:
            return []
        seconds = self._settings.claim_seconds
        answer: Any = self._redis.xautoclaim(
            self.source.key, self._settings.group, self._consumer, int(seconds * 1000), self._claim_start, count
        )
        self._claim_start, entries = answer[:2]
        if self._claim_start == _SEEN_ALL:
            self._claim_time = time.monotonic() + seconds / 2
        return _records(entries)

    def write(self, replies: Sequence[Reply]) -> list[bool]:
        """Answer records and acknowledge them; of the same replies a second time nothing is written.

        Returns:
            [replies] whether the record was still pending, so that this reply is its answer.
        """
        settings = self._settings
        cap: list[str] = [] if settings.max_length is None else ["MAXLEN", "~", str(settings.max_length)]
        pipeline = self._redis.pipeline(transaction=False)
        for reply in replies:
            target = self.rejected if reply.rejected else self.target.key
            trims = reply.rejected or settings.when_full == "trim"
            fields = chain.from_iterable(reply.fields.items())
            arguments: list[str | bytes] = [settings.group, reply.id, *(cap if trims else []), "*", *fields]
            self._script([self.source.key, target], arguments, pipeline)
        with _refusals(self.target):
            results = pipeline.execute(raise_on_error=False)
            failed = next((result for result in results if isinstance(result, Exception)), None)
            if failed is not None:
                raise failed
            return [result == 1 for result in results]

    def counts(self) -> RedisCounts:
        """Return the numbers that are kept next to the stream of the answers, at `<answers>:alerts`."""
        return RedisCounts(self._redis, self.target)

    def lag(self) -> Lag:
        """Ask how far the group is after the newest record."""
        with _refusals(self.source):
            groups: Any = self._redis.xinfo_groups(self.source.key)
        group = next((group for group in groups if group["name"].decode() == self._settings.group), None)
        return Lag(None, 0) if group is None else Lag(group.get("lag"), group["pending"])

    def _leave(self) -> None:
        """Leave the group, unless a record that was read waits for its answer."""
        from redis.exceptions import RedisError

        key = self.source.key
        group = self._settings.group
        with suppress(RedisError):  # without it the group keeps a name more
            consumers: Any = self._redis.xinfo_consumers(key, group)
            if any(item["name"].decode() == self._consumer and not item["pending"] for item in consumers):
                self._redis.xgroup_delconsumer(key, group, self._consumer)
        self._redis.close()


class RedisCounts:
    """Numbers in a hash of the server; see `alerting.CountStore`."""

    def __init__(self, redis: Redis, target: StreamAddress) -> None:
        self._redis = redis
        self._target = target
        self._key = f"{target.key}:alerts"

    def add(self, changes: Mapping[str, float]) -> dict[str, float]:
        """Add to the numbers; return all."""
        pipeline = self._redis.pipeline()
        for name, number in changes.items():
            pipeline.hincrbyfloat(self._key, name, number)
        pipeline.hgetall(self._key)
        with _refusals(self._target):
            numbers: dict[bytes, bytes] = pipeline.execute()[-1]
        return {name.decode(): float(number) for name, number in numbers.items()}

    def claim(self, key: str) -> bool:
        """Add a key; whether it was not there."""
        with _refusals(self._target):
            return self._redis.hsetnx(self._key, key, "1") == 1

    def remove(self, keys: Iterable[str]) -> None:
        """Remove keys."""
        with _refusals(self._target):
            self._redis.hdel(self._key, *keys)


def is_away(error: Exception) -> bool:
    """Whether an error says that the server is away or full for now, so that it is worth trying again."""
    from redis.exceptions import ConnectionError, OutOfMemoryError, ReadOnlyError, TimeoutError

    return isinstance(error, (ConnectionError, TimeoutError, OutOfMemoryError, ReadOnlyError))


def reason(error: Exception) -> str:
    """Shorten what the server or the system says, for a sentence."""
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__


def _connect(address: StreamAddress) -> Redis:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise ToolError(
            f"{address} needs the package redis, which is not installed; pip install 'potstill[streams]'"
        ) from error
    # The loop tries again itself, and says so.
    return Redis.from_url(
        address.server,
        protocol=2,
        socket_connect_timeout=_TIMEOUT,
        socket_timeout=_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )


@contextmanager
def _refusals(address: StreamAddress) -> Iterator[None]:
    """Turn what the server refuses for good into one sentence."""
    from redis.exceptions import ResponseError

    try:
        yield
    except ResponseError as error:
        if is_away(error):
            raise
        advice = "check the name and the rights of the user"
        if "NOGROUP" in str(error) or "UNBLOCKED" in str(error):
            advice = "the stream or its group was deleted, or the server has lost its data; run again to begin anew"
        raise StreamError(f"{address} cannot be used ({reason(error)}): {advice}") from error


def _records(entries: Any) -> list[Record]:
    """Make records of entries; one that was deleted meanwhile has no fields."""
    return [Record(id_, fields) for id_, fields in entries if fields is not None]
