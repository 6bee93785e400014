"""Messages about what happened, by webhooks and e-mail.

A message that cannot be delivered is a line on the terminal; it neither fails nor delays for long what it is about.
Passwords and URLs come from the environment and are never printed: a receiver is named by its key in params.yaml.
"""

from __future__ import annotations

import os
import smtplib
import ssl
import sys
import threading
import time
import urllib.error
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

from flows.engine.webhooks import UndeliverableError, filled_url, new_message, post
from potstill.config.notify_params import Email, Notify
from potstill.config.yaml_file import parse_section, read_params
from potstill.errors import ApprovalPendingError, BusyError, GateRefusedError, PotstillError, redacted
from potstill.paths import PARAMS
from potstill.registry.steps import VetoedError

PASSWORD = "POTSTILL_SMTP_PASSWORD"
TEST = "test"
_TRIES = 2
_PAUSE_SECONDS = 1.0
Message = Mapping[str, str]
# What a mail says below its text.
_IN_MAIL = ("event", "project", "time", "host", "workspace")


@contextmanager
def tell_outcome(workspace: Path) -> Iterator[None]:
    """Tell how the run inside the context ended, unless it ended well or another run or a person ended it."""
    try:
        yield
    except (BusyError, VetoedError):
        raise
    except GateRefusedError as error:
        notify(workspace, "refusal", str(error))
        raise
    except ApprovalPendingError as error:
        notify(workspace, "approval_pending", str(error))
        raise
    except PotstillError as error:
        notify(workspace, "failure", str(error))
        raise
    except Exception as error:
        notify(workspace, "failure", f"{type(error).__name__}: {redacted(' '.join(str(error).split()))[:300]}")
        raise


def notify(workspace: Path, event: str, sentence: str) -> list[str]:
    """Tell the receivers in params.yaml of an event; never raises.

    Only the section `notify` is checked, since a params.yaml that is wrong elsewhere is itself a failure to tell of.

    Args:
        workspace: folder of params.yaml.
        event: one of `notify.events`, or `TEST`, which every receiver is told.
        sentence: what happened.

    Returns:
        A sentence for each receiver that was not told; they are printed to standard error.
    """
    try:
        values = read_params(workspace / PARAMS)
        section = parse_section("notify", Notify, values.get("notify") or {})
        if event not in (*section.events, TEST):
            return []
        problems = _deliver(section, _message(values, workspace, event, sentence))
    except Exception as error:  # whatever it is, a message never fails a run
        problems = [f"nobody is told: {error}"]
    for problem in problems:
        print(f"notify: {problem}", file=sys.stderr, flush=True)
    return problems


def _message(values: Mapping[str, Any], workspace: Path, event: str, sentence: str) -> Message:
    """Return what a webhook receives as JSON."""
    project = values.get("project")
    name = str(project.get("name")) if isinstance(project, Mapping) else ""
    return new_message(str(uuid.uuid4()), event, name, sentence, workspace)


def _deliver(section: Notify, message: Message) -> list[str]:
    """Tell all receivers at the same time; return a sentence for each that was not told."""
    limit = section.timeout_seconds
    sends: dict[str, Callable[[], None]] = {
        f"notify.webhooks.{number}": partial(_post, url, message, limit) for number, url in enumerate(section.webhooks)
    }
    if section.email is not None:
        sends["notify.email"] = partial(_mail, section.email, message, limit)
    deliveries = [_Delivery(name, send) for name, send in sends.items()]
    for delivery in deliveries:
        delivery.start()
    # A receiver that sends byte after byte runs into no time limit of a socket.
    end = time.monotonic() + _TRIES * limit + _PAUSE_SECONDS
    for delivery in deliveries:
        delivery.join(max(0.0, end - time.monotonic()))
    return [f"{each.name} was not told of the {message['event']}: {each.reason}" for each in deliveries if each.reason]


class _Delivery(threading.Thread):
    """The tries to tell one receiver, in a thread that the end of the process does not wait for.

    Attributes:
        reason: why it was not told; empty once it was.
    """

    def __init__(self, name: str, send: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._send = send
        self.reason = "it did not answer in time"

    def run(self) -> None:
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            try:
                self._send()
            except OSError as error:  # SMTP's and urllib's errors are of this kind too
                self.reason = _reason(error)
            except UndeliverableError as error:
                self.reason = str(error)
                return
            except Exception as error:  # such as one about a URL that is none, whose message would show it
                self.reason = type(error).__name__
                return
            else:
                self.reason = ""
                return


def _reason(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered with status {error.code}"
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__


def _post(url: str, message: Message, limit_seconds: float) -> None:
    post(filled_url(url), message, limit_seconds)


def _mail(email: Email, message: Message, limit_seconds: float) -> None:
    mail = EmailMessage()
    mail["From"] = email.sender
    mail["To"] = ", ".join(email.recipients)
    mail["Subject"] = f"[{message['project']}] {message['event'].replace('_', ' ')}"
    mail["Message-ID"] = f"<{message['id']}@{message['host']}>"
    mail.set_content("\n".join([message["text"], "", *(f"{name}: {message[name]}" for name in _IN_MAIL)]))
    password = os.environ.get(PASSWORD)
    if email.user is not None and not password:
        raise UndeliverableError(f"the environment has no {PASSWORD}")
    context = ssl.create_default_context()
    connect = partial(smtplib.SMTP_SSL, context=context) if email.security == "tls" else smtplib.SMTP
    with connect(email.host, email.port, timeout=limit_seconds) as server:
        if email.security == "starttls":
            server.starttls(context=context)
        if email.user is not None and password:
            _log_in(server, email.user, password)
        refused = server.send_message(mail)
    if refused:
        raise UndeliverableError(f"the mail server refuses {', '.join(refused)}; the others were told")


def _log_in(server: smtplib.SMTP, user: str, password: str) -> None:
    try:
        server.login(user, password)
    except smtplib.SMTPAuthenticationError:  # not tried again, since some servers lock a user out
        raise UndeliverableError(f"the mail server refuses the user or {PASSWORD}") from None
