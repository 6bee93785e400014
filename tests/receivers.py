"""Real receivers of notifications: an HTTP server that keeps what is posted to it, and a mail server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from potstill.compute.processes import free_port


@dataclass
class Webhook:
    """What was posted, and the statuses to answer with: 200 once the list is used up."""

    url: str
    statuses: list[int] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def events(self) -> list[str]:
        """The event of each message, in the order of their arrival."""
        return [message["event"] for message in self.messages]


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Run an HTTP server on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(received.statuses.pop(0) if received.statuses else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Webhook(f"http://127.0.0.1:{server.server_address[1]}/hook")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield received
        server.shutdown()
        thread.join()


class Mailbox:
    """Keeps each mail that a server takes."""

    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802
        """Take a mail."""
        self.mails.append(envelope)
        return "250 OK"


@contextmanager
def mail_server(**options: Any) -> Iterator[tuple[int, list[Any]]]:
    """Run a mail server on a free loopback port; yields the port and the mails that it takes."""
    from aiosmtpd.controller import Controller

    mailbox = Mailbox()
    port = free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port, mailbox.mails
    finally:
        controller.stop()
