"""The OpenAPI description of a release's endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from potstill import __version__
from potstill.serving.release import Release
from potstill.serving.runtime import ModelCard
from potstill.serving.schemas import (
    RESPONSES,
    AnswerQuestions,
    ClassifyPairs,
    ClassifyTexts,
    Explain,
    ExplainResponse,
    Failure,
    Info,
    PredictRequest,
    Score,
    TagTexts,
)

REFERENCE = "#/components/schemas/{model}"
# What is there only for models that label whole texts.
OF_LABELS: tuple[type[BaseModel], ...] = (PredictRequest, Score, Explain, ExplainResponse)
REFUSALS = {
    "400": "the body is not JSON",
    "408": "the body did not arrive in time",
    "413": "over a limit that /info names",
    "415": "the body is not sent as JSON",
    "422": "a field is missing, unknown or of a wrong type",
    "429": "too many texts wait; Retry-After says when to ask again",
    "401": "the service has API keys, and none of them was sent",
    "503": "the model is not loaded yet",
}


@dataclass(frozen=True)
class Typed:
    """The typed endpoint of a task, `/v1/<name>`."""

    name: str
    summary: str
    request: type[BaseModel]

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/v1/{self.name}"


def typed_endpoint(card: ModelCard) -> Typed:
    """The one that a model answers."""
    if card.kind == "token_classification":
        return Typed("tag", "Find the entities of texts", TagTexts)
    if card.kind == "question_answering":
        return Typed("answer", "Answer questions about texts", AnswerQuestions)
    return Typed("classify", "Classify texts", ClassifyPairs if card.pair else ClassifyTexts)


def describe(release: Release) -> dict[str, Any]:
    """The document that `/openapi.json` answers with."""
    typed, response = typed_endpoint(release.card), RESPONSES[release.card.kind]
    classifies = typed.name == "classify"
    models: list[type[BaseModel]] = [typed.request, response, Failure, Info]
    _, schemas = models_json_schema(
        [(model, "validation") for model in (*models, *(OF_LABELS if classifies else ()))],
        ref_template=REFERENCE,
    )
    paths = {typed.path: _post(typed.summary, typed.request.__name__, _reference(response.__name__))}
    return {
        "openapi": "3.1.0",
        "info": {"title": release.settings.name, "version": release.tag or __version__},
        "components": {"schemas": schemas["$defs"]},
        "paths": paths
        | (_predict() if classifies else {})
        | {"/info": {"get": {"summary": "What runs here", "responses": {"200": _content("", _reference("Info"))}}}},
    }


def _predict() -> dict[str, Any]:
    scores = {"type": "array", "items": _reference("Score")}
    summary = "Classify texts, in the form of Text Embeddings Inference"
    return {
        "/predict": _post(summary, "PredictRequest", {"anyOf": [scores, {"type": "array", "items": scores}]}),
        "/v1/explain": _post("Which words a label hangs on", "Explain", _reference("ExplainResponse")),
    }


def bento_routes(release: Release) -> list[dict[str, Any]]:
    """The typed endpoint in the form of BentoML's `/schema.json`, from which its clients make their methods."""
    typed = typed_endpoint(release.card)
    return [
        {
            "name": typed.name,
            "route": typed.path,
            "description": typed.summary,
            "batchable": False,
            "is_task": False,
            "input": TypeAdapter(typed.request).json_schema(),
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
