"""Serving folders of tiny random models whose answers are spans of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from potstill.config.serving_params import Serve
from potstill.inference.runtime import Student, read_card
from potstill.labels.offsets import has_own_token
from potstill.labels.tags import units_of
from potstill.serving.app import create_app, start
from potstill.serving.keys import Keys
from potstill.serving.middleware import add_middleware
from potstill.serving.openapi import bento_routes
from potstill.serving.release import Release, Settings
from potstill.serving.telemetry import Metrics
from tests.potstill.serving.folders import write_span_model

TEXT = "the doctor and the village story"


@pytest.fixture(scope="module")
def tagger(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_span_model(tiny_base, tmp_path_factory.mktemp("tagger") / "serving", "token_classification")


@pytest.fixture(scope="module")
def answerer(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_span_model(tiny_base, tmp_path_factory.mktemp("answerer") / "serving", "question_answering")


def client(folder: Path, **limits: Any) -> TestClient:
    serve = Serve(**limits)
    release = Release(folder, Settings(name="n", serve=serve), read_card(folder), None, False, "sum", {})
    metrics = Metrics()
    app = create_app(release, metrics)
    start(app, release, Student(folder, 1))
    return TestClient(add_middleware(app, release, Keys({}), metrics), raise_server_exceptions=False)


@pytest.mark.slow
def test_entities_are_decoded_from_the_logits_of_each_units_own_token(tagger: Path) -> None:
    student = Student(tagger, 2)
    texts = [TEXT, "village", "", f"{TEXT} and the movie " * 20]
    units = [units_of(text) for text in texts]
    rows = student.text_windows(texts, units)
    for text, text_units, windows, tagging in zip(texts, units, rows, student.tag(texts), strict=True):
        assert (len(windows) > 1) == (len(text_units) > 14)
        best = []
        for window, logits in zip(windows, student.compute(windows), strict=True):
            assert logits.shape == (len(window.ids), 3)
            best += logits[window.tokens[has_own_token(window.tokens)]].argmax(axis=1).tolist()
        assert len(best) == len(text_units)  # no unit is left out, however long the text is
        inside = {unit.start for unit, tag in zip(text_units, best, strict=True) if tag > 0}
        covered = {start for start, _ in text_units if any(e.start <= start < e.end for e in tagging.entities)}
        assert covered == inside
        assert all(text[e.start : e.end] == e.text and 1 / 3 <= e.score <= 1 for e in tagging.entities)
        assert tagging.windows == len(windows)
    assert student.tag([TEXT]) == student.tag([TEXT, texts[3]])[:1]
    with pytest.raises(TypeError, match="is for token_classification, not for questions"):
        student.answer([("a", "b")])


def test_the_exported_tagger_has_the_logits_of_the_torch_model(tagger: Path) -> None:
    import torch

    from potstill.models.loading import load_classifier

    student = Student(tagger, 1)
    ((window,),) = student.text_windows([TEXT], [units_of(TEXT)])
    (logits,) = student.compute([window])
    with torch.inference_mode():
        expected = load_classifier(tagger.parent / "torch")(torch.tensor([window.ids])).logits[0]
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


@pytest.mark.slow
def test_answers_are_spans_of_the_context_over_all_windows(answerer: Path) -> None:
    student = Student(answerer, 1)
    long = " ".join(f"{word} {TEXT}" for word in ("movie", "train", "garden"))
    (short_reply, long_reply) = student.answer([("the house", TEXT), ("the house", long)])
    assert (short_reply.windows, long_reply.windows > 1) == (1, True)
    for reply, context in ((short_reply, TEXT), (long_reply, long)):
        assert reply.answer is not None
        assert reply.answer == context[reply.start : reply.end]
        assert 0 < reply.score <= 1
    assert student.answer([("the house", long)]) == [long_reply]


def test_the_tag_endpoint(tagger: Path) -> None:
    http = client(tagger, max_texts=2, max_characters=200)
    response = http.post("/v1/tag", json={"texts": [TEXT, "village"]})
    assert response.status_code == 200
    body = response.json()
    assert [len(row["entities"]) for row in body["predictions"]] == [
        len(row.entities) for row in Student(tagger, 1).tag([TEXT, "village"])
    ]
    assert set(body["model"]) == {"bento", "candidate", "variant"}
    for request, status in (
        ({"texts": []}, 422),
        ({"texts": "a"}, 422),
        ({"texts": ["a"], "more": 1}, 422),
        ({"texts": ["a"] * 3}, 413),
        ({"texts": ["a" * 201]}, 413),
    ):
        refused = http.post("/v1/tag", json=request)
        assert (refused.status_code, set(refused.json())) == (status, {"error", "error_type", "request_id"})
    assert http.post("/v1/tag", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert http.post("/v1/tag", content=json.dumps({"texts": ["a"]})).status_code == 415
    assert http.post("/v1/classify", json={"texts": ["a"]}).status_code == 404
    assert http.get("/info").json()["model"]["task"] == "token_classification"
    paths = http.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/tag", "/info"}


def test_the_answer_endpoint(answerer: Path) -> None:
    http = client(answerer, max_texts=2, max_characters=200)
    question = {"question": "the house", "context": TEXT}
    response = http.post("/v1/answer", json={"questions": [question]})
    assert response.status_code == 200
    (reply,) = response.json()["predictions"]
    assert reply["answer"] == TEXT[reply["start"] : reply["end"]]
    assert http.post("/v1/answer", json={"questions": [question] * 3}).status_code == 413
    assert http.post("/v1/answer", json={"questions": [question | {"context": "a" * 200}]}).status_code == 413
    assert http.post("/v1/answer", json={"questions": [{"question": "a"}]}).status_code == 422
    assert http.post("/v1/answer", json={"questions": [question | {"context": ""}]}).status_code == 422
    assert set(http.get("/openapi.json").json()["paths"]) == {"/v1/answer", "/info"}


def test_bento_clients_find_the_endpoint(tagger: Path) -> None:
    release = Release(tagger, Settings(name="n", serve=Serve()), read_card(tagger), None, False, "sum", {})
    (route,) = bento_routes(release)
    assert (route["name"], route["route"]) == ("tag", "/v1/tag")
