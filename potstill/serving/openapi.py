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
    RESPONSES,
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
# The signs that have a meaning in a regular expression of JSON schema (ECMA 262).
_SIGNS = re.compile(r"[\^$\\.*+?()\[\]{}|/]")
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
    """The document that `/openapi.json` answers with.

    It allows what the service answers and no more, two limits aside that it cannot say: the bytes of a body, and the
    characters of a pair's two texts together.
    """
    operations = [_typed_operation(release.card), *_label_operations(release.card)]
    models: list[type[BaseModel]] = [operation.request for operation in operations]
    models += [*_answers(release.card), Failure, Info]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=REFERENCE)
    described: dict[str, Any] = schemas["$defs"]
    for operation in operations:
        _bound(described[operation.request.__name__], described, release.settings.serve)
        if issubclass(operation.request, Explain):
            described[operation.request.__name__]["properties"]["label"] = _label_schema(release.card)
    info = {
        "operationId": "info",
        "summary": "What runs here",
        "responses": {"200": _content("what runs here", _reference(Info))} | _refusals("401"),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": release.settings.name, "version": release.tag or __version__},
        "components": {"schemas": described},
        "paths": {operation.path: {"post": operation.to_json()} for operation in operations} | {"/info": {"get": info}},
    }


@dataclass(frozen=True)
class Operation:
    """An endpoint that takes a body.

    Attributes:
        id: names it for client generators; it stays what it is from version to version.
        path: where it is.
        summary: what it does.
        request: the body.
        answer: schema of the answer.
    """

    id: str
    path: str
    summary: str
    request: type[BaseModel]
    answer: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As OpenAPI has it."""
        return {
            "operationId": self.id,
            "summary": self.summary,
            "requestBody": {"required": True} | _content("", _reference(self.request)),
            "responses": {"200": _content("the answers", self.answer)} | _refusals(*REFUSALS),
        }


def _typed_operation(card: ModelCard) -> Operation:
    typed = typed_endpoint(card)
    return Operation(typed.name, typed.path, typed.summary, typed.request, _reference(RESPONSES[card.kind]))


def _label_operations(card: ModelCard) -> list[Operation]:
    """What is there only for models that label whole texts."""
    if typed_endpoint(card).name != "classify":
        return []
    scores = {"type": "array", "items": _reference(Score)}
    each = {"anyOf": [{"title": "Of one text", **scores}, {"title": "Of each", "type": "array", "items": scores}]}
    summary = "Classify texts, in the form of Text Embeddings Inference"
    request, explain = (PredictPairs, ExplainPair) if card.pair else (PredictTexts, ExplainText)
    words = "Which words a label hangs on"
    return [
        Operation("predict", "/predict", summary, request, {"title": "Scores", **each}),
        Operation("explain", "/v1/explain", words, explain, _reference(ExplainResponse)),
    ]


def _answers(card: ModelCard) -> list[type[BaseModel]]:
    labels: list[type[BaseModel]] = [Score, ExplainResponse] if typed_endpoint(card).name == "classify" else []
    return [RESPONSES[card.kind], *labels]


def _bound(schema: dict[str, Any], described: Mapping[str, Any], limits: Serve) -> None:
    """Write the service's limits into the texts of a body: the length of each, and how many there may be."""
    for name in ("texts", "questions", "inputs", "text", "question", "context"):
        if name in schema.get("properties", {}):
            _bound_texts(schema["properties"][name], described, limits)


def _bound_texts(schema: dict[str, Any], described: Mapping[str, Any], limits: Serve) -> None:
    for choice in schema.get("anyOf", ()):
        _bound_texts(choice, described, limits)
    if schema.get("type") == "string":
        schema["maxLength"] = limits.max_characters
    elif schema.get("type") == "array":
        schema.setdefault("maxItems", limits.max_texts)
        _bound_texts(schema["items"], described, limits)
    elif "$ref" in schema:
        _bound(described[schema["$ref"].rpartition("/")[2]], described, limits)


def _label_schema(card: ModelCard) -> dict[str, Any]:
    """The labels that can be explained: of a model of numbers none.

    A pattern, not an enum: of labels that differ in letter case or signs alone, client generators make one name.
    """
    nothing = {"type": "null"}
    about = {"title": "Label", "default": None}
    if card.kind == "regression":
        return nothing | about
    names = "|".join(_SIGNS.sub(r"\\\g<0>", str(label)) for label in card.labels)
    return {"anyOf": [{"type": "string", "pattern": f"^(?:{names})$"}, nothing]} | about


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


def _refusals(*statuses: str) -> dict[str, Any]:
    return {status: _content(REFUSALS[status], _reference(Failure)) for status in statuses}


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=model.__name__)}
