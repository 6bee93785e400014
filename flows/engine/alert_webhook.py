"""Tells of alerts: a line in the log, and a message to a webhook, which delays no answer."""

from __future__ import annotations

import sys
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.engine.webhooks import UndeliverableError, filled_url, new_message, post
from potstill.config.params import Params
from potstill.errors import ParamsError
from potstill.progress import say

if TYPE_CHECKING:
    from potstill.prediction.alerting import Alert

_TRIES = 3
_PAUSE_SECONDS = 1.0
_LIMIT_SECONDS = 5.0


@contextmanager
def alert_teller(workspace: Path, params: Params, output: str) -> Iterator[Callable[[Alert], None]]:
    """Yield what tells of an alert. At the end it waits for the messages that are under way.

    Args:
        workspace: the current folder.
        params: all params.
        output: where the answers are, a path or a URL.

    Raises:
        ParamsError: the environment lacks a variable of `alerts.webhook`, or it is no URL then.
    """
    url = _webhook(params)
    # A window has at most one message of each rule, so that none waits for a receiver that does not answer another.
    with ThreadPoolExecutor(max(1, len(params.alerts.rules)), "alerts") as pool:

        def tell(alert: Alert) -> None:
            say(f"alert: {alert.sentence}")
            if url is not None:
                pool.submit(_deliver, url, _message(workspace, params, output, alert))

        yield tell


def _webhook(params: Params) -> str | None:
    if params.alerts.webhook is None:
        return None
    try:
        return filled_url(params.alerts.webhook)
    except UndeliverableError as error:
        raise ParamsError(f"nobody can be told by alerts.webhook: {error}") from None


def _message(workspace: Path, params: Params, output: str, alert: Alert) -> dict[str, Any]:
    """Return what the webhook receives as JSON."""
    start, end = (datetime.fromtimestamp(seconds, UTC).isoformat() for seconds in (alert.start, alert.end))
    message = new_message(f"{output} {alert.rule} {start}", "alert", params.project.name, alert.sentence, workspace)
    return message | {
        "rule": alert.rule,
        "window": [start, end],
        "texts": alert.texts,
        "value": alert.finding.value,
    }


def _deliver(url: str, message: Mapping[str, Any]) -> None:
    """Send a message, up to three times; say if it did not arrive. The URL may be a secret and is not printed."""
    reason = ""
    for attempt in range(_TRIES):
        time.sleep(_PAUSE_SECONDS * attempt)
        try:
            post(url, message, _LIMIT_SECONDS)
        except Exception as error:
            reason = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
        else:
            return
    print(f"alert: alerts.webhook was not told of {message['rule']}: {reason}", file=sys.stderr, flush=True)
