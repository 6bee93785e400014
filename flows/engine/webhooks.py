"""Sends a message to a webhook, whose URL may be a secret of the environment and is never printed."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any


class UndeliverableError(Exception):
    """A receiver cannot be told, and a second try would change nothing."""


def filled_url(url: str) -> str:
    """Fill the variables of the environment, as `${NAME}`, into a URL.

    Raises:
        UndeliverableError: the environment lacks one, or the result is no URL.
    """
    try:
        address = Template(url).substitute(os.environ)
    except KeyError as error:
        raise UndeliverableError(f"the environment has no {error.args[0]}") from None
    if not address.startswith(("http://", "https://")):
        raise UndeliverableError("it is no URL with http:// or https://")
    return address


def new_message(message_id: str, event: str, project: str, text: str, workspace: Path) -> dict[str, str]:
    """Make what a receiver is told of an event: `text` says what happened; time, host and workspace are added."""
    return {
        "id": message_id,
        "event": event,
        "project": project,
        "text": text,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "workspace": str(workspace.resolve()),
    }


def post(address: str, message: Mapping[str, Any], limit_seconds: float) -> None:
    """Send a message as JSON.

    Raises:
        OSError: the receiver does not answer, or not with success; `urllib.error.HTTPError` tells how.
    """
    body = json.dumps(message, ensure_ascii=False).encode()
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"})
    urllib.request.build_opener(_NoRedirect).open(request, timeout=limit_seconds).close()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for a failure: urllib would follow it with GET, and the message would be lost in silence."""

    def redirect_request(self, *_: Any) -> None:
        return None
