"""Messages that real receivers take: a web server and a mail server."""

from __future__ import annotations

import email
import email.policy
import ipaddress
import ssl
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flows.commands.notify_receivers import send_test
from flows.engine.notifications import PASSWORD, notify, tell_outcome
from potstill.compute.processes import free_port
from potstill.config.notify_params import Notify
from potstill.config.yaml_file import parse_section, read_params
from potstill.errors import (
    ApprovalPendingError,
    BusyError,
    FetchError,
    GateRefusedError,
    NotifyError,
    ParamsError,
)
from potstill.registry.steps import VetoedError
from tests.conftest import REPOSITORY
from tests.keys import write_private_key
from tests.potstill.registry.test_signatures import certificate_builder
from tests.receivers import Webhook, mail_server

SENTENCE = "das Modell wäre schlechter: 7 % weniger\nals der Champion"


def workspace(folder: Path, **section: Any) -> Path:
    """A folder whose params.yaml names receivers."""
    params = read_params(REPOSITORY / "params.yaml") | {"notify": section}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return folder


def mail_section(port: int, **more: Any) -> dict[str, Any]:
    addresses = {"sender": "potstill@example.org", "recipients": ["a@example.org", "b@example.org"]}
    return {"email": {"host": "127.0.0.1", "port": port, "security": "none", **addresses, **more}}


def test_a_webhook_receives_plain_json(tmp_path: Path, receiver: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_HOOK", receiver.url)
    folder = workspace(tmp_path, webhooks=["${TEAM_HOOK}", receiver.url])
    assert notify(folder, "drift", SENTENCE) == []
    first, second = receiver.messages
    assert first == second
    assert (first["event"], first["project"], first["text"]) == ("drift", "movie-reviews", SENTENCE)
    assert set(first) == {"id", "event", "project", "text", "time", "host", "workspace"}
    assert first["workspace"] == str(tmp_path)


@pytest.mark.parametrize(("statuses", "told"), [([500], True), ([500, 503], False), ([302, 302], False)])
def test_a_receiver_is_tried_twice_and_a_redirect_is_a_refusal(
    tmp_path: Path, receiver: Webhook, statuses: list[int], told: bool
) -> None:
    receiver.statuses = list(statuses)
    problems = notify(workspace(tmp_path, webhooks=[receiver.url]), "failure", "x")
    expected = f"notify.webhooks.0 was not told of the failure: it answered with status {statuses[-1]}"
    assert problems == ([] if told else [expected])
    first, second = receiver.messages
    assert first == second  # so that a receiver can tell a repetition by its id


def test_only_the_events_that_are_named_are_told(tmp_path: Path, receiver: Webhook) -> None:
    folder = workspace(tmp_path, webhooks=[receiver.url], events=["refusal"])
    notify(folder, "failure", "x")
    notify(folder, "refusal", "x")
    assert receiver.events() == ["refusal"]


def test_a_mail_goes_to_all_recipients(tmp_path: Path) -> None:
    with mail_server() as (port, mails):
        assert notify(workspace(tmp_path, **mail_section(port)), "approval_pending", SENTENCE) == []
    (mail,) = mails
    assert (mail.mail_from, mail.rcpt_tos) == ("potstill@example.org", ["a@example.org", "b@example.org"])
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert message["Subject"] == "[movie-reviews] approval pending"
    body = message.get_body()
    assert body is not None
    assert body.get_content().splitlines()[:2] == SENTENCE.splitlines()


@pytest.mark.parametrize("password", ["open sesame", "wrong", None])
def test_a_mail_server_with_a_password_is_asked_over_an_encrypted_connection_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    context = trusted_server(tmp_path, monkeypatch)

    def authenticate(server: object, session: object, envelope: object, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == (b"potstill", b"open sesame"), handled=False)

    if password is not None:
        monkeypatch.setenv(PASSWORD, password)
    options = {"tls_context": context, "require_starttls": True, "auth_required": True}
    with mail_server(authenticator=authenticate, **options) as (port, mails):
        folder = workspace(tmp_path, **mail_section(port, security="starttls", user="potstill"))
        problems = notify(folder, "failure", "x")
    reasons = {"wrong": f"the mail server refuses the user or {PASSWORD}", None: f"the environment has no {PASSWORD}"}
    expected = [f"notify.email was not told of the failure: {reasons[password]}"] if password in reasons else []
    assert (problems, len(mails)) == (expected, 0 if expected else 1)


def trusted_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate of 127.0.0.1 that the clients of this process trust."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = certificate_builder(name, name, key).add_extension(address, critical=True)
    certificate = folder / "server.pem"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    write_private_key(key, folder / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, folder / "key.pem")
    return context


def test_what_cannot_be_told_is_a_line_without_secrets_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWAY", f"http://127.0.0.1:{free_port()}/secret")
    monkeypatch.setenv("NONSENSE", "ftp://secret")
    monkeypatch.setenv("BROKEN", "http://127.0.0.1:secret/")
    folder = workspace(tmp_path, webhooks=[f"${{{name}}}" for name in ("AWAY", "NONSENSE", "BROKEN", "MISSING")])
    with pytest.raises(FetchError, match="no network"), tell_outcome(folder):
        raise FetchError("no network")
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "notify: notify.webhooks.0 was not told of the failure: [Errno 111] Connection refused",
        "notify: notify.webhooks.1 was not told of the failure: it is no URL with http:// or https://",
        "notify: notify.webhooks.2 was not told of the failure: InvalidURL",
        "notify: notify.webhooks.3 was not told of the failure: the environment has no MISSING",
    ]
    assert printed.out == ""


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (GateRefusedError("x"), "refusal"),
        (ApprovalPendingError("x"), "approval_pending"),
        (FetchError("x"), "failure"),
        (KeyError("x"), "failure"),
        (BusyError("x"), None),
        (VetoedError("x"), None),
        (KeyboardInterrupt(), None),
        (None, None),
    ],
)
def test_how_a_run_ends_is_told_once(
    tmp_path: Path, receiver: Webhook, error: BaseException | None, event: str | None
) -> None:
    folder = workspace(tmp_path, webhooks=[receiver.url])
    with nullcontext() if error is None else pytest.raises(type(error)), tell_outcome(folder):
        if error is not None:
            raise error
    assert receiver.events() == ([] if event is None else [event])


def test_params_that_are_wrong_elsewhere_are_told_too(
    tmp_path: Path, receiver: Webhook, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace(tmp_path, webhooks=[receiver.url])
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("project:", "proyect:"), encoding="utf-8")
    notify(folder, "failure", "x")
    assert receiver.events() == ["failure"]
    (folder / "params.yaml").write_text("notify: {webhook: []}", encoding="utf-8")
    notify(folder, "failure", "x")
    assert "nobody is told: unknown key 'notify.webhook'; did you mean 'webhooks'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"webhooks": ["ftp://example.org"]}, "write a URL with http:// or https://"),
        ({"webhooks": ["https://me:pass@example.org/"]}, "does not belong here; name a variable"),
        ({"webhooks": ["https://example.org/$"]}, "any other $ as $$"),
        (mail_section(25, user="potstill"), "its password would travel in the clear"),
        (mail_section(25, recipients=[]), "notify.email.recipients"),
        (mail_section(25, sender="nobody"), "notify.email.sender"),
        ({"events": ["succes"]}, "notify.events"),
    ],
)
def test_receivers_that_cannot_be_are_refused(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ParamsError) as raised:
        parse_section("notify", Notify, section)
    assert words in str(raised.value)


def test_potstill_notify_tries_every_receiver(
    tmp_path: Path, receiver: Webhook, capsys: pytest.CaptureFixture[str]
) -> None:
    send_test(workspace(tmp_path, webhooks=[receiver.url], events=[]))
    assert (receiver.events(), capsys.readouterr().out) == (["test"], "every receiver was told\n")
    with pytest.raises(NotifyError, match="1 of the receivers were not told"):
        send_test(workspace(tmp_path, webhooks=[receiver.url, "${MISSING}"]))
    with pytest.raises(ParamsError, match="names nobody to tell"):
        send_test(workspace(tmp_path))
