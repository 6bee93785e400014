"""Connections that end: uvicorn's own, with limits to what it would wait for or hold without end.

uvicorn takes in a head (request line and headers) of any size, waits for it as long as it likes to come, and goes on
reading a body that has been answered already. Nothing behind it can know: it is asked only when a head is whole.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Of a head, beyond what the first read of it brought.
HEAD_BYTES = 65_536
# That a connection may take to bring a head, the first one and each that it has begun; and to bring the rest of a body
# that nobody waits for any more.
SECONDS = 30.0


class Bounded(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Heads that have begun, whether the last is whole, its bytes so far; and whether its body is still to come.
        self._heads, self._in_head, self._head_bytes, self._in_body = 0, True, 0, False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        heads, waited = self._heads, self._in_head
        super().data_received(data)
        if waited and self._in_head and heads == self._heads:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The head of the request is over {HEAD_BYTES} bytes.")
        self._watch()

    def on_message_begin(self) -> None:
        """A head has begun."""
        self._heads, self._in_head, self._head_bytes = self._heads + 1, True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._in_head, self._in_body = False, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A body is whole."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is out."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Let the time run, from when it first does, while something is to come that nobody waits for."""
        unread = self._in_body and self.cycle is not None and self.cycle.response_complete
        if not (self._in_head or unread) or self.transport.is_closing():
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bound_connections() -> None:
    """Have uvicorn use them where it is left to choose, as BentoML leaves it."""
    auto.AutoHTTPProtocol = Bounded
