"""The OpenAPI description of a release's endpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from potstill import __version__
from potstill.config.serving_params import Serve
from potstill.inference.runtime import ModelCard
from potstill.serving.release import Release
from potstill.serving.schemas import (
    AnswerQuestions,
    ClassifyPairs,
    ClassifyTexts,
    Explain,
    ExplainPair,
    ExplainResponse,
    ExplainText,
    Failure,
    Info,
    PredictPairs,
    PredictTexts,
    Score,
    TagTexts,
)

REFERENCE = "#/components/schemas/{model}"
# The characters with a special meaning in a regular expression of JSON schema (ECMA 262).
_SPECIAL = re.compile(r"[\^$\\.*+?()\[\]{}|/]")
REFUSALS = {
    "400": "the body is not JSON",
    "408": "the body did not arrive in time",
    "413": "the request exceeds a limit that /info names",
    "415": "the body is not sent as JSON",
    "422": "a field is missing, unknown or has a wrong type",
    "429": "too many texts are waiting; Retry-After says when to try again",
    "401": "the service requires an API key, and none of its keys was sent",
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
        """The path of the endpoint."""
        return f"/v1/{self.name}"


def typed_endpoint(card: ModelCard) -> Typed:
    """Return the typed endpoint of a model."""
    if card.form == "entities":
        return Typed("tag", "Find the entities of texts", TagTexts)
    if card.form == "span":
        return Typed("answer", "Answer questions about texts", AnswerQuestions)
    return Typed("classify", "Classify texts", ClassifyPairs if card.pair else ClassifyTexts)


def describe(release: Release) -> dict[str, Any]:
    """Build the document of `/openapi.json`.

    It allows exactly the requests that the service accepts, except for two limits that a schema cannot express: the
    bytes of a body, and the characters of both texts of a pair together.
    """
    operations = [_typed_operation(release), *_label_operations(release.card)]
    models: list[type[BaseModel]] = [operation.request for operation in operations]
    models += [*_answers(release), Failure, Info]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=REFERENCE)
    definitions: dict[str, Any] = schemas["$defs"]
    for operation in operations:
        _bound(definitions[operation.request.__name__], definitions, release.settings.serve)
        if issubclass(operation.request, Explain):
            definitions[operation.request.__name__]["properties"]["label"] = _label_schema(release.card)
    info = {
        "operationId": "info",
        "summary": "What runs here",
        "responses": {"200": _content("what runs here", _reference(Info))} | _refusals("401"),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": release.settings.name, "version": release.tag or __version__},
        "components": {"schemas": definitions},
        "paths": {operation.path: {"post": operation.to_json()} for operation in operations} | {"/info": {"get": info}},
    }


@dataclass(frozen=True)
class Operation:
    """An endpoint that takes a body.

    Attributes:
        id: name for client generators, which never changes.
        path: path of the endpoint.
        summary: one-line description.
        request: model of the body.
        answer: schema of the answer.
    """

    id: str
    path: str
    summary: str
    request: type[BaseModel]
    answer: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the operation in OpenAPI's form."""
        return {
            "operationId": self.id,
            "summary": self.summary,
            "requestBody": {"required": True} | _content("", _reference(self.request)),
            "responses": {"200": _content("the answers", self.answer)} | _refusals(*REFUSALS),
        }


def _typed_operation(release: Release) -> Operation:
    typed = typed_endpoint(release.card)
    return Operation(typed.name, typed.path, typed.summary, typed.request, _reference(release.answering.response))


def _label_operations(card: ModelCard) -> list[Operation]:
    """Return the further operations of models that label whole texts."""
    if typed_endpoint(card).name != "classify":
        return []
    scores = {"type": "array", "items": _reference(Score)}
    choices = {"anyOf": [{"title": "Of one text", **scores}, {"title": "Of each", "type": "array", "items": scores}]}
    summary = "Classify texts, in the form of Text Embeddings Inference"
    predict_body, explain_body = (PredictPairs, ExplainPair) if card.pair else (PredictTexts, ExplainText)
    return [
        Operation("predict", "/predict", summary, predict_body, {"title": "Scores", **choices}),
        Operation("explain", "/v1/explain", "Explain a label word by word", explain_body, _reference(ExplainResponse)),
    ]


def _answers(release: Release) -> list[type[BaseModel]]:
    has_scores = typed_endpoint(release.card).name == "classify"
    scores: list[type[BaseModel]] = [Score, ExplainResponse] if has_scores else []
    return [release.answering.response, *scores]


def _bound(schema: dict[str, Any], definitions: Mapping[str, Any], limits: Serve) -> None:
    """Write the service's limits into the schema of a body: the length and the number of texts."""
    for name in ("texts", "questions", "inputs", "text", "question", "context"):
        if name in schema.get("properties", {}):
            _bound_texts(schema["properties"][name], definitions, limits)


def _bound_texts(schema: dict[str, Any], definitions: Mapping[str, Any], limits: Serve) -> None:
    for choice in schema.get("anyOf", ()):
        _bound_texts(choice, definitions, limits)
    if schema.get("type") == "string":
        schema["maxLength"] = limits.max_characters
    elif schema.get("type") == "array":
        schema.setdefault("maxItems", limits.max_texts)
        _bound_texts(schema["items"], definitions, limits)
    elif "$ref" in schema:
        _bound(definitions[schema["$ref"].rpartition("/")[2]], definitions, limits)


def _label_schema(card: ModelCard) -> dict[str, Any]:
    """Build the schema of the labels that can be explained; a regression model has none.

    It is a pattern, not an enum, because client generators give labels that differ only in case or punctuation the same
    name.
    """
    null = {"type": "null"}
    annotations = {"title": "Label", "default": None}
    if card.form == "number":
        return null | annotations
    names = "|".join(_SPECIAL.sub(r"\\\g<0>", str(label)) for label in card.labels)
    return {"anyOf": [{"type": "string", "pattern": f"^(?:{names})$"}, null]} | annotations


def bento_routes(release: Release) -> list[dict[str, Any]]:
    """Describe the typed endpoint in the form of BentoML's `/schema.json`, from which its clients build methods."""
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


def _refusals(*statuses: str) -> dict[str, Any]:
    return {status: _content(REFUSALS[status], _reference(Failure)) for status in statuses}


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=model.__name__)}
