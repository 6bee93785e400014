"""The OpenAPI description of a release's endpoints."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from potstill import __version__
from potstill.serving.release import Release
from potstill.serving.schemas import (
    RESPONSES,
    ClassifyPairs,
    ClassifyTexts,
    Failure,
    Info,
    PredictRequest,
    Score,
)

REFERENCE = "#/components/schemas/{model}"
REFUSALS = {
    "400": "the body is not JSON",
    "413": "over a limit that /info names",
    "415": "the body is not sent as JSON",
    "422": "a field is missing, unknown or of a wrong type",
}


def describe(release: Release) -> dict[str, Any]:
    """The document that `/openapi.json` answers with."""
    request, response = classify_request(release), RESPONSES[release.card.kind]
    _, schemas = models_json_schema(
        [(model, "validation") for model in (request, response, PredictRequest, Score, Failure, Info)],
        ref_template=REFERENCE,
    )
    scores = {"type": "array", "items": _reference("Score")}
    return {
        "openapi": "3.1.0",
        "info": {"title": release.settings.name, "version": release.tag or __version__},
        "components": {"schemas": schemas["$defs"]},
        "paths": {
            "/v1/classify": _post("Classify texts", request.__name__, _reference(response.__name__)),
            "/predict": _post(
                "Classify texts, in the form of Text Embeddings Inference",
                "PredictRequest",
                {"anyOf": [scores, {"type": "array", "items": scores}]},
            ),
            "/info": {"get": {"summary": "What runs here", "responses": {"200": _content("", _reference("Info"))}}},
        },
    }


def classify_request(release: Release) -> type[ClassifyTexts] | type[ClassifyPairs]:
    """The body `/v1/classify` takes."""
    return ClassifyPairs if release.card.pair else ClassifyTexts


def bento_routes(release: Release) -> list[dict[str, Any]]:
    """The typed endpoint in the form of BentoML's `/schema.json`, from which its clients make their methods."""
    return [
        {
            "name": "classify",
            "route": "/v1/classify",
            "description": "Classify texts",
            "batchable": False,
            "is_task": False,
            "input": TypeAdapter(classify_request(release)).json_schema(),
            "output": {"type": "object"},
        }
    ]


def _post(summary: str, body: str, answer: dict[str, Any]) -> dict[str, Any]:
    refusals = {status: _content(text, _reference("Failure")) for status, text in REFUSALS.items()}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True} | _content("", _reference(body)),
            "responses": {"200": _content("the answers", answer)} | refusals,
        }
    }


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _reference(model: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=model)}
