"""Connections of uvicorn with limits on time and size, which stay HTTP/1.1 where a client offers HTTP/2.

uvicorn accepts a head (request line and headers) of any size, waits for it without a time limit, and keeps reading the
body of a request that has already been answered. The application cannot limit this, because it is only called when a
head is complete. Of a request that offers HTTP/2, as each of Java's HttpClient does, uvicorn's parser drops the body.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Bytes of a head after its first read, and of what follows a body.
HEAD_BYTES = 65_536
# Time for a head to arrive, from the start of the connection or of the head; and for the rest of the body of a request
# that has been answered.
TIME_LIMIT = 30.0
_OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c[ \t]*(?=\r\n)", re.IGNORECASE)


class BoundedConnection(HttpToolsProtocol):
    """A connection with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._events = 0  # heads that have begun or are complete, and parts of bodies
        self._in_head = True  # whether the last head is incomplete
        self._head_bytes = 0  # bytes since the last event
        self._in_body = False  # whether its body is incomplete
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._cancel_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._in_body and b"h2c" in data:
            head, blank, body = data.partition(b"\r\n\r\n")
            data = _OFFER.sub(b"", head + blank) + body
        events_before = self._events
        super().data_received(data)
        if self._events > events_before:
            self._head_bytes = 0
        else:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The head of the request is over {HEAD_BYTES} bytes.")
        self._update_timer()

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._events += 1
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; what follows a chunked body (trailers) is left out."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that a head is complete."""
        self._events += 1
        self._in_head = False
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that a part of a body has arrived."""
        self._events += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a body is complete."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that an answer has been sent."""
        super().on_response_complete()
        self._update_timer()

    def _update_timer(self) -> None:
        """Run the timer while a head, or the body of an answered request, is incomplete."""
        has_unread_body = self._in_body and self.cycle is not None and self.cycle.response_complete
        if not (self._in_head or has_unread_body) or self.transport.is_closing():
            self._cancel_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(TIME_LIMIT, self.transport.close)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bound_connections() -> None:
    """Make bounded connections uvicorn's default, which BentoML uses."""
    auto.AutoHTTPProtocol = BoundedConnection
