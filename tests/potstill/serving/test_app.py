"""Tests of the application with a tiny student, without a server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from potstill.config.serving_params import Serve
from potstill.inference.runtime import Floats, Student, read_card
from potstill.registry.pyfunc import Classifier
from potstill.serving import schemas
from potstill.serving.app import create_app, start
from potstill.serving.keys import Keys
from potstill.serving.middleware import App, add_middleware
from potstill.serving.release import Release, Settings
from potstill.serving.telemetry import Metrics
from tests.conftest import generate_rows
from tests.potstill.serving.folders import write_serving


class Service:
    """An application whose model waits for a gate."""

    def __init__(self, folder: Path, abstain_below: float | None = None, **serve: Any) -> None:
        settings = Settings(name="n", serve=Serve(**serve), abstain_below=abstain_below)
        self.release = Release(folder, settings, read_card(folder), "n:1", False, "sum", {})
        self.metrics = Metrics()
        self.student = Student(folder, 1)
        self.gate = threading.Event()
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


async def responses(app: App, body: bytes, *, leaves: bool, more: bool = False) -> list[Any]:
    """Collect the messages to a caller that leaves after its body, or stays and sends no `more`."""
    stays = asyncio.Event()
    sent: list[Any] = []
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


def test_an_overloaded_service_says_when_to_retry(folder: Path) -> None:
    service = Service(folder, max_texts=2, max_queue=2, max_queue_seconds=1.5)
    http = TestClient(service.app, raise_server_exceptions=False)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(http.post, "/v1/classify", json={"texts": ["a", "b"]})
        for _ in range(200):  # the model has its first text, so both still count as waiting
            if service.count("potstill_queue_texts 2.0"):
                break
            threading.Event().wait(0.02)
        refused = http.post("/v1/classify", json={"texts": ["c"]})
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


def test_an_answer_below_the_threshold_is_marked_as_by_the_registered_model(folder: Path) -> None:
    texts = [text for text, _ in generate_rows(12)]
    confidences = [max(prediction.probabilities) for prediction in Student(folder, 1).predict([*texts])]
    threshold = sorted(confidences)[5]
    service = Service(folder, abstain_below=threshold)
    service.gate.set()
    http = TestClient(service.app)
    answers = http.post("/v1/classify", json={"texts": texts}).json()["predictions"]
    abstained = [answer.pop("abstained") for answer in answers]
    assert abstained == [confidence < threshold for confidence in confidences]
    assert 0 < sum(abstained) < len(texts)
    frame = Classifier(Student(folder, 1), threshold).predict(pandas.DataFrame({"text": texts}))
    assert frame["abstained"].tolist() == abstained
    assert service.count(f'potstill_threshold_texts_total{{abstained="true"}} {float(sum(abstained))}')
    answered = float(len(texts) - sum(abstained))
    assert service.count(f'potstill_threshold_texts_total{{abstained="false"}} {answered}')
    assert http.get("/info").json()["model"]["abstain_below"] == threshold
    without = Service(folder)
    without.gate.set()
    plain = TestClient(without.app)
    assert plain.post("/v1/classify", json={"texts": texts}).json()["predictions"] == answers
    assert "abstain_below" not in plain.get("/info").json()["model"]
    assert "abstained" not in Classifier(Student(folder, 1)).predict(pandas.DataFrame({"text": texts}))


def test_the_texts_of_a_caller_that_left_are_not_computed(folder: Path) -> None:
    service = Service(folder)
    body = json.dumps({"texts": ["a", "b", "c"]}).encode()

    async def both() -> tuple[list[Any], list[Any]]:
        stays = asyncio.create_task(responses(service.app, body, leaves=False))
        await asyncio.sleep(0.05)
        left = await responses(service.app, body, leaves=True)
        service.gate.set()
        return await stays, left

    stayed, left = asyncio.run(both())
    assert stayed[0]["status"] == 200
    assert left[0]["status"] == 499
    assert service.computed == 3
    assert service.count('potstill_refused_total{reason="left"} 1.0')


@pytest.mark.parametrize("words", [100, 2000])  # tokenized in the event loop, and in a thread
def test_a_text_that_may_not_be_cut_is_refused_before_the_model_reads_it(folder: Path, words: int) -> None:
    service = Service(folder)
    answer = TestClient(service.app).post("/predict", json={"inputs": ["a", "film " * words]})
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "inputs[1] is longer than 48 tokens; send truncate: true to cut it",
    )
    assert service.computed == 0
    assert service.count("potstill_queue_texts 0.0")


def test_a_body_has_a_time_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.serving.app.BODY_SECONDS", 0.05)
    service = Service(folder)
    started, answer = asyncio.run(responses(service.app, b'{"texts": ', leaves=False, more=True))
    assert started["status"] == 408
    assert json.loads(answer["body"])["error_type"] == "Timeout"


def test_callers_wait_while_the_model_is_loaded(folder: Path) -> None:
    release = Service(folder, max_queue_seconds=0.2).release
    app = create_app(release, Metrics())
    http = TestClient(add_middleware(app, release, Keys({}), app.state.metrics))
    refused = http.post("/v1/classify", json={"texts": ["a"]})
    assert (refused.status_code, refused.json()["error_type"]) == (503, "Unavailable")
    student = Student(folder, 1)
    threading.Timer(0.05, lambda: start(app, release, student)).start()
    assert http.post("/v1/classify", json={"texts": ["a"]}).status_code == 200


def test_all_arriving_bodies_together_have_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.serving.app.ARRIVING_BYTES", 0)
    service = Service(folder, max_body_bytes=1000)  # the limit is then two of the largest bodies
    service.gate.set()
    http = TestClient(service.app)
    body = json.dumps({"texts": ["a"]}).encode()

    async def all_at_once() -> list[Any]:
        arriving = [asyncio.create_task(responses(service.app, b" " * 600, leaves=False, more=True)) for _ in range(3)]
        await asyncio.sleep(0.05)
        refused = await responses(service.app, body.ljust(900), leaves=False)
        for task in arriving:
            task.cancel()
        await asyncio.gather(*arriving, return_exceptions=True)
        return refused

    started, refused = asyncio.run(all_at_once())
    assert started["status"] == 429
    assert dict(started["headers"])[b"retry-after"] == b"1"
    assert json.loads(refused["body"])["error_type"] == "Overloaded"
    # Their bytes are released.
    headers = {"content-type": "application/json"}
    assert http.post("/v1/classify", content=body.ljust(900), headers=headers).status_code == 200


def test_a_compressed_body_is_refused_unread(folder: Path) -> None:
    service = Service(folder)
    service.gate.set()
    http = TestClient(service.app)
    for coding, status in (("gzip", 415), ("br, identity", 415), ("identity", 200), ("", 200)):
        answer = http.post("/v1/classify", json={"texts": ["a"]}, headers={"content-encoding": coding})
        assert answer.status_code == status
        if status == 415:
            assert (answer.json()["error_type"], "content-encoding" in answer.text) == ("MediaType", True)


def test_an_error_of_the_model_is_an_internal_error_without_its_cause(folder: Path) -> None:
    service = Service(folder)

    def broken(_: Sequence[Any]) -> list[Floats]:
        raise RuntimeError("secret")

    service.student.run = broken  # type: ignore[method-assign]
    answer = TestClient(service.app, raise_server_exceptions=False).post("/v1/classify", json={"texts": ["a"]})
    assert (answer.status_code, answer.json()["error_type"]) == (500, "Internal")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_metrics_and_descriptions_can_be_switched_off(folder: Path) -> None:
    opened, closed = (TestClient(Service(folder, docs=on, metrics=on).app) for on in (True, False))
    for path in ("/metrics", "/openapi.json"):
        assert opened.get(path).status_code == 200
        assert closed.get(path).status_code == 404
    assert "potstill_request_seconds" in opened.get("/metrics").text
    assert closed.get("/info").status_code == 200


def test_a_path_with_a_slash_too_many_is_not_redirected(folder: Path) -> None:
    http = TestClient(Service(folder).app, follow_redirects=False)
    assert http.post("/v1/classify/", json={"texts": ["a"]}).status_code == 404


def test_info_shows_the_limits(folder: Path) -> None:
    limits = TestClient(Service(folder, max_queue=40, max_queue_seconds=0.5).app).get("/info").json()["limits"]
    assert limits == {
        "max_texts": 32,
        "max_characters": 20_000,
        "max_body_bytes": 2_000_000,
        "max_queue": 40,
        "max_queue_seconds": 0.5,
        "max_tokens": 48,
    }


@pytest.mark.parametrize(
    "body",
    [
        schemas.ClassifyTexts,
        schemas.ClassifyPairs,
        schemas.TagTexts,
        schemas.AnswerQuestions,
        schemas.PredictTexts,
        schemas.PredictPairs,
    ],
)
def test_a_body_of_numbers_has_an_error_for_each_form_and_not_for_each_number(body: type[schemas.Body]) -> None:
    field = next(name for name in ("texts", "questions", "inputs") if name in body.model_fields)
    with pytest.raises(ValidationError) as caught:
        body.model_validate_json(json.dumps({field: [1] * 1000}))
    assert caught.value.error_count() < 5
