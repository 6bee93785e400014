"""Tests of the middleware around a stub application; test_service.py tests it around the real one."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from potstill.config.serving_params import Serve
from potstill.inference.runtime import ModelCard
from potstill.serving.keys import VARIABLE, Keys, key_entry, new_key
from potstill.serving.middleware import add_middleware, bypass_bento, wants_page
from potstill.serving.release import Release, Settings
from potstill.serving.telemetry import Metrics, record_of
from tests.potstill.serving.folders import card

HEADERS = {"x-request-id", "server-timing", "x-model-version", "x-bento-tag", "x-lineage-sum"}
KEY = new_key()
KEYS = Keys.read({VARIABLE: key_entry("mine", KEY)})
WITH_KEY = {"authorization": f"Bearer {KEY}"}


def release(**serve: Any) -> Release:
    settings = Settings(name="n", serve=Serve(**serve))
    return Release(
        Path(), settings, ModelCard.model_validate(card()), "n:1", True, "ab" * 32, {"model.onnx": "cd" * 32}
    )


async def echo_record(request: Request) -> JSONResponse:
    return JSONResponse({"id": record_of(request.scope).id, "key": record_of(request.scope).key})


def fails(_: Request) -> None:
    raise RuntimeError("broken")


INNER = Starlette(
    routes=[
        Route("/livez", lambda _: PlainTextResponse("\n")),
        Route("/readyz", lambda _: PlainTextResponse("no", 503)),
        *(Route(path, echo_record) for path in ("/info", "/metrics", "/schema.json", "/openapi.json", "/")),
        Route("/predict", echo_record, methods=["POST"]),
        Route("/fails", fails),
    ]
)


def client(keys: Keys = KEYS, metrics: Metrics | None = None, **serve: Any) -> TestClient:
    return TestClient(
        add_middleware(INNER, release(**serve), keys, metrics or Metrics()), raise_server_exceptions=False
    )


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/info", "/nowhere", "/predict", "/fails"])
@pytest.mark.parametrize("keys", [KEYS, Keys({})])
def test_every_response_names_its_model(path: str, keys: Keys) -> None:
    response = client(keys).get(path)
    assert response.headers.keys() >= HEADERS
    assert response.headers["x-model-version"] == "abababababab-int8"
    assert response.headers["x-bento-tag"] == "n:1"
    assert response.headers["x-lineage-sum"] == release().lineage_sum
    assert response.headers["server-timing"].startswith("total;dur=")


def test_every_error_has_the_typed_body_with_the_request_id() -> None:
    http = client(Keys({}))
    for path, status, kind in (
        ("/nowhere", 404, "Http"),
        ("/predict", 405, "Http"),
        ("/readyz", 503, "Unavailable"),
        ("/fails", 500, "Http"),
    ):
        response = http.get(path, headers={"x-request-id": "me-1"})
        assert response.status_code == status
        body = response.json()
        assert (body["error_type"], body["request_id"]) == (kind, "me-1")
        assert body["error"]
        assert "broken" not in body["error"]
    assert http.get("/predict").headers["allow"] == "POST"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\tb", "<script>", "ü".encode().decode("latin-1")])
def test_an_invalid_request_id_is_replaced(given: str) -> None:
    http = client(Keys({}))
    assert http.get("/info", headers={"x-request-id": "Root=1-5e:a.b"}).json()["id"] == "Root=1-5e:a.b"
    response = http.get("/info", headers={"x-request-id": given.encode("latin-1")})
    assert response.json()["id"] == response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


def test_a_request_without_a_key_is_refused_before_its_body_is_read() -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    metrics = Metrics()
    app = add_middleware(INNER, release(), KEYS, metrics)
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"authorization", b"Bearer no")]}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401
    assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
    assert b"Unauthorized" in sent[1]["body"]
    assert 'potstill_refused_total{reason="key"} 1.0' in metrics.exposition().decode()


def test_without_a_key_only_the_probes_answer() -> None:
    http = client()
    assert http.get("/info", headers=WITH_KEY).json()["key"] == "mine"
    assert http.get("/livez").status_code == 200
    assert http.get("/readyz").status_code == 503
    for path in ("/info", "/metrics", "/schema.json", "/openapi.json", "/", "/nowhere", "/predict"):
        assert http.get(path).status_code == 401
        assert http.get(path, headers=WITH_KEY).status_code != 401


def test_the_page_asks_for_the_key_itself() -> None:
    browser = {"accept": "text/html,application/xhtml+xml"}
    assert client().get("/", headers=browser).status_code == 200
    assert client(page=False).get("/", headers=browser).status_code == 401
    assert client().post("/", headers=browser).status_code == 401
    assert not wants_page({"path": "/", "method": "GET", "headers": [(b"accept", b"*/*")]})


def test_descriptions_can_be_switched_off() -> None:
    for path in ("/schema.json", "/openapi.json"):
        assert client(Keys({})).get(path).status_code == 200
        closed = client(Keys({}), docs=False).get(path)
        assert (closed.status_code, closed.json()["error_type"]) == (404, "Http")


def test_only_configured_origins_may_send_requests() -> None:
    origin = {"origin": "https://example.org"}
    preflight = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert "access-control-allow-origin" not in client().get("/info", headers=WITH_KEY | origin).headers
    assert client().options("/predict", headers=preflight).status_code == 401
    allowing = client(cors_origins=["https://example.org"])
    assert (
        allowing.get("/info", headers=WITH_KEY | origin).headers["access-control-allow-origin"] == "https://example.org"
    )
    response = allowing.options("/predict", headers=preflight)  # browsers send no key with a preflight request
    assert response.status_code == 200
    assert "POST" in response.headers["access-control-allow-methods"]
    assert (
        "access-control-allow-origin"
        not in allowing.get("/info", headers={**WITH_KEY, "origin": "https://a.org"}).headers
    )
    # Pages of the origin can read why a request was refused, and when to try again.
    refused = allowing.get("/info", headers=origin).headers
    assert refused["access-control-allow-origin"] == "https://example.org"
    assert "retry-after" in refused["access-control-expose-headers"]


def test_metrics_are_labelled_by_known_endpoints_only() -> None:
    metrics = Metrics()
    http = client(Keys({}), metrics)
    for path in ("/info", "/info", "/a", "/b", "/fails"):
        http.get(path)
    lines = metrics.exposition().decode().splitlines()
    assert 'potstill_request_seconds_count{endpoint="/info",status="200"} 2.0' in lines
    assert 'potstill_request_seconds_count{endpoint="other",status="404"} 2.0' in lines
    assert 'potstill_request_seconds_count{endpoint="other",status="500"} 1.0' in lines


def test_the_access_log_names_the_key(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bentoml.access"):
        client().get("/info", headers=WITH_KEY)
        assert not caplog.messages
        client(access_log=True).get("/info", headers={**WITH_KEY, "x-request-id": "me-1"})
    (line,) = caplog.messages
    assert line.startswith("me-1 GET /info 200 ")
    assert line.endswith(" key=mine")
    assert KEY not in line


def test_a_path_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bentoml.access"):
        client(Keys({}), access_log=True).get("/a%0d%0ame-2%20GET%20/info%20200%1b[31m%e2%80%a8")
    (line,) = caplog.messages
    assert line.isascii()
    assert line.isprintable()


def test_bentoml_answers_its_own_paths_only() -> None:
    def stub(name: str) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse(name))])

    http = TestClient(bypass_bento(stub("ours"), stub("bento")))
    bento_paths = ("/livez", "/readyz", "/healthz", "/schema.json")
    assert {http.get(path).text for path in bento_paths} == {"bento"}
    assert {http.get(path).text for path in ("/", "/predict", "/metrics", "/docs.json")} == {"ours"}
