"""Tests of the OpenAPI document: generated clients, and its agreement with the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.testclient import TestClient

from potstill.config.serving_params import Serve
from potstill.inference.runtime import ModelCard, Student, read_card
from potstill.serving.app import create_app, start
from potstill.serving.keys import Keys
from potstill.serving.middleware import add_middleware
from potstill.serving.openapi import describe
from potstill.serving.release import Release, Settings
from potstill.serving.telemetry import Metrics
from tests.potstill.serving.clients import generate_client
from tests.potstill.serving.folders import card, write_serving

CARDS: dict[str, dict[str, Any]] = {
    "single": {},
    "pair": {"pair": True},
    # Labels to which a generator would give the same name, and special characters of patterns.
    "alike": {"labels": ["Good", "good", "a|b", "a b", "(a", "[", "ä"]},
    "multi": {"task": "multi_label", "labels": ["x", "y"]},
    "number": {"task": "regression", "labels": ["score"]},
    "entities": {"task": "token_classification", "labels": ["O", "B-A", "I-A"]},
    "answers": {"task": "question_answering", "labels": ["start", "end"], "pair": True},
}


def openapi_document(abstain_below: float | None = None, **changes: Any) -> dict[str, Any]:
    model_card = ModelCard.model_validate(card(**changes))
    settings = Settings(name="n", serve=Serve(), abstain_below=abstain_below)
    return describe(Release(Path(), settings, model_card, "n:1", True, "ab", {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_a_complete_client_can_be_generated(tmp_path: Path, name: str) -> None:
    document = openapi_document(**CARDS[name])
    package = generate_client(document, tmp_path / "client")
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids)
    assert {path.stem for path in (package / "api/default").glob("[!_]*.py")} == set(ids)
    assert all(schema["title"] for schema in document["components"]["schemas"].values())


@pytest.mark.parametrize("name", ["single", "pair", "multi", "entities"])
def test_a_model_that_may_abstain_says_so_in_each_answer(name: str) -> None:
    for threshold, required in ((None, False), (0.8, True)):
        document = openapi_document(abstain_below=threshold, **CARDS[name])
        answers = [
            schema
            for title, schema in document["components"]["schemas"].items()
            if title.endswith(("Answer", "Tagged"))
        ]
        assert answers
        assert all(("abstained" in schema["required"]) is required for schema in answers)


def test_operation_ids_never_change() -> None:
    ids = {
        path: operation["operationId"]
        for changes in CARDS.values()
        for path, operations in openapi_document(**changes)["paths"].items()
        for operation in operations.values()
    }
    assert ids == {
        "/v1/classify": "classify",
        "/v1/tag": "tag",
        "/v1/answer": "answer",
        "/v1/explain": "explain",
        "/predict": "predict",
        "/info": "info",
    }


def running_service(folder: Path) -> TestClient:
    serve = Serve(max_texts=3, max_characters=20)
    release = Release(folder, Settings(name="n", serve=serve), read_card(folder), "n:1", False, "s", {})
    metrics = Metrics()
    app = create_app(release, metrics)
    start(app, release, Student(folder, 1))
    return TestClient(add_middleware(app, release, Keys({}), metrics), raise_server_exceptions=False)


@pytest.mark.slow
@pytest.mark.parametrize("pair", [False, True])
def test_the_service_accepts_exactly_what_the_document_allows(tiny_base: Path, tmp_path: Path, pair: bool) -> None:
    bodies: dict[str, list[dict[str, Any]]] = {
        "/v1/classify": [{"texts": texts} for texts in ([], ["a"], ["a"] * 4, ["a" * 21], [["a", "b"]], [["a"]], "a")],
        "/predict": [
            *({"inputs": inputs} for inputs in ("a", [], ["a"], ["a", "b"], [["a"]], [["a", "b"]], [["a", "b", "c"]])),
            *({"inputs": inputs} for inputs in ("a" * 21, ["a"] * 4, [["a"]] * 4, [["a", "b"]] * 4, [["a"], "b"])),
            *({"inputs": "a", "parameters": {"top_k": value}} for value in (1, 1.0, 1.5, 0, None, "1")),
            *({"inputs": "a", "truncation_direction": value} for value in ("Right", "left")),
        ],
        "/v1/explain": [
            *({"text": text} for text in ("a b", "a" * 21, ["a", "b"], ["a"], None)),
            *({"text": "a b", "label": label} for label in ("positive", "other", "", None)),
            *({"text": ["a", "b"], "label": label} for label in ("positive", "other")),
        ],
    }  # fmt: skip
    with running_service(write_serving(tiny_base, tmp_path / "serving", pair=pair, variant="fp32")) as client:
        document = client.get("/openapi.json").json()
        for path, path_bodies in bodies.items():
            schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            validator = Draft202012Validator(document | schema)
            for body in path_bodies:
                is_accepted = client.post(path, json=body).status_code == 200
                assert is_accepted is validator.is_valid(body), (path, body)
