"""Alerts that are told: the line, the message, and a receiver that is away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.engine import alert_webhook
from flows.engine.alert_webhook import alert_teller
from potstill.config.alerts_params import Alerts, ShareRule
from potstill.config.params import Params
from potstill.errors import ParamsError
from potstill.prediction.alert_rules import Finding
from potstill.prediction.alerting import Alert

ALERT = Alert("bad-rises", 36_000, 39_600, 60, Finding(0.5, "50.0% of 60 answers are bad"))
SENTENCE = "bad-rises: 50.0% of 60 answers are bad (1970-01-01 10:00 to 11:00 UTC)"


class Receiver(ThreadingHTTPServer):
    """Answers POST with the next of its codes once `together` has its parties, and keeps what it was sent."""

    def __init__(self, codes: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.codes = codes
        self.together = threading.Barrier(1)
        self.received: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.server.together.wait(4)
        self.send_response(self.server.codes.pop(0))
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver([]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tell(params: Params, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_webhook, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("HOOK", url)
    alerts = Alerts(webhook="${HOOK}")
    with alert_teller(Path("work"), params.model_copy(update={"alerts": alerts}), "redis://host/0/answers") as told:
        told(ALERT)


def test_an_alert_is_a_line_and_a_message_that_is_sent_until_it_is_taken(
    receiver: Receiver, default_params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.codes = [500, 204]
    tell(default_params, f"http://127.0.0.1:{receiver.server_port}/secret", monkeypatch)
    assert capsys.readouterr() == (f"alert: {SENTENCE}\n", "")
    first, second = receiver.received
    assert first == second
    assert {"time", "host"} < first.keys()
    expected = {
        "id": "redis://host/0/answers bad-rises 1970-01-01T10:00:00+00:00",
        "event": "alert",
        "project": default_params.project.name,
        "text": SENTENCE,
        "workspace": str(Path("work").resolve()),
        "rule": "bad-rises",
        "window": ["1970-01-01T10:00:00+00:00", "1970-01-01T11:00:00+00:00"],
        "texts": 60,
        "value": 0.5,
    }
    assert {name: first[name] for name in expected} == expected


def test_a_receiver_that_is_away_is_a_line_without_its_address(
    receiver: Receiver, default_params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.codes = [302, 500, 500]
    tell(default_params, f"http://127.0.0.1:{receiver.server_port}/secret", monkeypatch)
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        f"alert: {SENTENCE}\n",
        "alert: alerts.webhook was not told of bad-rises: status 500\n",
    )
    tell(default_params, "http://127.0.0.1:9/secret", monkeypatch)
    assert capsys.readouterr().err == "alert: alerts.webhook was not told of bad-rises: URLError\n"


def test_no_rule_waits_for_the_message_of_another(
    receiver: Receiver, default_params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.codes = [204, 204]
    receiver.together = threading.Barrier(2)
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{receiver.server_port}")
    rules = {name: ShareRule(kind="share", label="bad", above=0.1) for name in ("bad", "bad-rises")}
    params = default_params.model_copy(update={"alerts": Alerts(webhook="${HOOK}", rules=rules)})
    with alert_teller(Path("work"), params, "out") as told:
        for rule in rules:
            told(replace(ALERT, rule=rule))
    assert {message["rule"] for message in receiver.received} == set(rules)
    assert capsys.readouterr().err == ""


def test_a_webhook_has_to_be_a_url(default_params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParamsError, match="it is no URL with http:// or https://"):
        tell(default_params, "mailto:a@b", monkeypatch)
    monkeypatch.delenv("HOOK")
    params = default_params.model_copy(update={"alerts": Alerts(webhook="${HOOK}")})
    said = "the environment has no HOOK"
    with pytest.raises(ParamsError, match=said), alert_teller(Path("work"), params, "out"):
        pass
    for url, said in (
        ("ftp://a", "write a URL"),
        ("https://u:p@host", "a user or a password"),
        ("https://a/$", "write a"),
    ):
        with pytest.raises(ValueError, match=said):
            Alerts(webhook=url)
