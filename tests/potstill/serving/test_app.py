"""The application around a tiny student, without a server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from potstill.config.serving_params import Serve
from potstill.inference.runtime import Floats, Student, read_card
from potstill.serving.app import create_app, start
from potstill.serving.keys import Keys
from potstill.serving.middleware import App, add_middleware
from potstill.serving.release import Release, Settings
from potstill.serving.telemetry import Metrics
from tests.potstill.serving.folders import write_serving


class Service:
    """The application, whose model waits for a gate."""

    def __init__(self, folder: Path, **serve: Any) -> None:
        settings = Settings(name="n", serve=Serve(**serve))
        self.release = Release(folder, settings, read_card(folder), "n:1", False, "sum", {})
        self.metrics, self.student, self.gate = Metrics(), Student(folder, 1), threading.Event()
        self.computed = 0
        run = self.student.run

        def gated(rows: Sequence[Any]) -> list[Floats]:
            assert self.gate.wait(20)
            self.computed += len(rows)
            return run(rows)

        self.student.run = gated  # type: ignore[method-assign]
        app = create_app(self.release, self.metrics)
        start(app, self.release, self.student)
        self.app: App = add_middleware(app, self.release, Keys({}), self.metrics)

    def count(self, line: str) -> bool:
        return line in self.metrics.exposition().decode().splitlines()


async def sent_to(app: App, body: bytes, *, leaves: bool, more: bool = False) -> list[Any]:
    """What the application sends to a caller that leaves after its body, or stays and sends no `more`."""
    stays, sent = asyncio.Event(), list[Any]()
    messages = [{"type": "http.request", "body": body, "more_body": more}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        if not leaves:
            await stays.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/classify", "headers": headers, "query_string": b""}
    await app(scope, receive, send)
    return sent


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return write_serving(tiny_base, tmp_path / "serving")


def test_too_busy_says_when_to_come_back(folder: Path) -> None:
    service = Service(folder, max_texts=2, max_queue=2, max_queue_seconds=1.5)
    ask = TestClient(service.app, raise_server_exceptions=False)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask.post, "/v1/classify", json={"texts": ["a", "b"]})
        for _ in range(200):  # its first text is at the model, so both still count
            if service.count("potstill_queue_texts 2.0"):
                break
            threading.Event().wait(0.02)
        refused = ask.post("/v1/classify", json={"texts": ["c"]})
        service.gate.set()
        answered = first.result()
    assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
    assert refused.headers["retry-after"] == "2"
    assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert answered.status_code == 200
    assert [part.split(";")[0] for part in answered.headers["server-timing"].split(", ")] == [
        "queue",
        "tokenize",
        "infer",
        "total",
    ]
    assert service.count('potstill_refused_total{reason="full"} 1.0')
    assert service.count("potstill_queue_texts 0.0")
    assert service.count("potstill_batch_rows_total 2.0")
    assert service.count("potstill_queue_seconds_count 1.0")


def test_a_caller_that_left_is_taken_out_of_the_line(folder: Path) -> None:
    service = Service(folder)
    body = json.dumps({"texts": ["a", "b", "c"]}).encode()

    async def both() -> tuple[list[Any], list[Any]]:
        stays = asyncio.create_task(sent_to(service.app, body, leaves=False))
        await asyncio.sleep(0.05)
        gone = await sent_to(service.app, body, leaves=True)
        service.gate.set()
        return await stays, gone

    stayed, gone = asyncio.run(both())
    assert stayed[0]["status"] == 200
    assert gone[0]["status"] == 499
    assert service.computed == 3
    assert service.count('potstill_refused_total{reason="left"} 1.0')


def test_a_body_that_does_not_arrive_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.serving.app.BODY_SECONDS", 0.05)
    service = Service(folder)
    started, answer = asyncio.run(sent_to(service.app, b'{"texts": ', leaves=False, more=True))
    assert started["status"] == 408
    assert json.loads(answer["body"])["error_type"] == "Timeout"


def test_until_the_model_is_there_callers_wait_as_they_do_in_the_line(folder: Path) -> None:
    release = Service(folder, max_queue_seconds=0.2).release
    app = create_app(release, Metrics())
    ask = TestClient(add_middleware(app, release, Keys({}), app.state.metrics))
    refused = ask.post("/v1/classify", json={"texts": ["a"]})
    assert (refused.status_code, refused.json()["error_type"]) == (503, "Unavailable")
    threading.Timer(0.05, lambda: start(app, release, Student(folder, 1))).start()
    assert ask.post("/v1/classify", json={"texts": ["a"]}).status_code == 200


def test_bodies_that_arrive_at_once_are_bounded_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.serving.app.ARRIVING_BYTES", 0)
    service = Service(folder, max_body_bytes=1000)  # two of the largest, then
    service.gate.set()
    ask, body = TestClient(service.app), json.dumps({"texts": ["a"]}).encode()

    async def all_at_once() -> list[Any]:
        asked = [asyncio.create_task(sent_to(service.app, b" " * 600, leaves=False, more=True)) for _ in range(3)]
        await asyncio.sleep(0.05)
        refused = await sent_to(service.app, body.ljust(900), leaves=False)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        return refused

    started, refused = asyncio.run(all_at_once())
    assert started["status"] == 429
    assert dict(started["headers"])[b"retry-after"] == b"1"
    assert json.loads(refused["body"])["error_type"] == "Overloaded"
    # What they held is free again.
    headers = {"content-type": "application/json"}
    assert ask.post("/v1/classify", content=body.ljust(900), headers=headers).status_code == 200


def test_a_compressed_body_is_refused_unread(folder: Path) -> None:
    service = Service(folder)
    service.gate.set()
    ask = TestClient(service.app)
    for coding, status in (("gzip", 415), ("br, identity", 415), ("identity", 200), ("", 200)):
        answer = ask.post("/v1/classify", json={"texts": ["a"]}, headers={"content-encoding": coding})
        assert answer.status_code == status
        if status == 415:
            assert (answer.json()["error_type"], "content-encoding" in answer.text) == ("MediaType", True)


def test_what_the_model_cannot_do_is_our_error_without_its_cause(folder: Path) -> None:
    service = Service(folder)

    def broken(_: Sequence[Any]) -> list[Floats]:
        raise RuntimeError("secret")

    service.student.run = broken  # type: ignore[method-assign]
    answer = TestClient(service.app, raise_server_exceptions=False).post("/v1/classify", json={"texts": ["a"]})
    assert (answer.status_code, answer.json()["error_type"]) == (500, "Internal")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_metrics_and_descriptions_are_closed_by_settings(folder: Path) -> None:
    opened, closed = (TestClient(Service(folder, docs=on, metrics=on).app) for on in (True, False))
    for path in ("/metrics", "/openapi.json"):
        assert opened.get(path).status_code == 200
        assert closed.get(path).status_code == 404
    assert "potstill_request_seconds" in opened.get("/metrics").text
    assert closed.get("/info").status_code == 200


def test_limits_are_shown(folder: Path) -> None:
    limits = TestClient(Service(folder, max_queue=40, max_queue_seconds=0.5).app).get("/info").json()["limits"]
    assert limits == {
        "max_texts": 32,
        "max_characters": 20_000,
        "max_body_bytes": 2_000_000,
        "max_queue": 40,
        "max_queue_seconds": 0.5,
        "max_tokens": 48,
    }
