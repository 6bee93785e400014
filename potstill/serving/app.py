"""The HTTP endpoints as one Starlette application, mounted in the Bento.

Mounted rather than declared as BentoML's typed endpoints: those cost twice the time of a request, answer a wrong body
in their own form, and accept pickled bodies. What they would give, checked bodies and an OpenAPI description, is here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

import anyio
from anyio import CapacityLimiter
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from potstill.serving.openapi import describe, typed_endpoint
from potstill.serving.release import Release
from potstill.serving.runtime import Prediction, Student, Text
from potstill.serving.schemas import (
    RESPONSES,
    Answer,
    AnswerQuestions,
    AnswerResponse,
    ClassifyPairs,
    ClassifyTexts,
    Entity,
    Failure,
    Info,
    LabelsAnswer,
    ModelVersion,
    NumberAnswer,
    PredictRequest,
    Reply,
    Score,
    Tagged,
    TagResponse,
    TagTexts,
)
from potstill.serving.scores import scored

A = TypeVar("A")
B = TypeVar("B", bound=BaseModel)


class RefusedError(Exception):
    """A request that is answered with an error of the caller's making."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def create_app(release: Release) -> Starlette:
    """The application. It answers once `app.state.student` is set, which the service does when it starts."""
    endpoints = Endpoints(release)
    description = JSONResponse(describe(release)).body
    app = Starlette(
        routes=[
            *endpoints.of_the_task(),
            Route("/info", endpoints.info),
            Route("/openapi.json", lambda _: _json(description)),
            # It takes the place of BentoML's page, which loads trackers.
            Route("/", endpoints.info),
        ],
        exception_handlers={
            RefusedError: _refused,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
    )
    app.state.student = None
    return app


class Endpoints:
    """The requests a release answers."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._limits = release.settings.serve
        card = release.card
        self._names = [str(label) for label in card.labels]
        self._version = ModelVersion(bento=release.tag, candidate=release.candidate, variant=card.variant)

    def of_the_task(self) -> list[Route]:
        """Where this model answers; elsewhere it says 404."""
        typed = typed_endpoint(self._release.card)
        answer = {"tag": self.tag, "answer": self.answer, "classify": self.classify}[typed.name]
        routes = [Route(typed.path, answer, methods=["POST"])]
        if typed.name == "classify":
            # Both as Text Embeddings Inference has them.
            routes += [Route(path, self.predict, methods=["POST"]) for path in ("/predict", "/")]
        return routes

    async def tag(self, request: Request) -> Response:
        """`POST /v1/tag`."""
        body = await self._read(request, TagTexts)
        self._check(body.texts)
        found = await self._run(request, lambda student: student.tag(body.texts))
        answers = [
            Tagged.model_construct(
                entities=[Entity.model_construct(**asdict(entity)) for entity in tagging.entities],
                truncated=tagging.truncated,
            )
            for tagging in found
        ]
        return _json(TagResponse.model_construct(predictions=answers, model=self._version))

    async def answer(self, request: Request) -> Response:
        """`POST /v1/answer`."""
        body = await self._read(request, AnswerQuestions)
        asked = [(item.question, item.context) for item in body.questions]
        self._check(asked)
        found = await self._run(request, lambda student: student.answer(asked))
        answers = [Reply.model_construct(**asdict(reply)) for reply in found]
        return _json(AnswerResponse.model_construct(predictions=answers, model=self._version))

    async def classify(self, request: Request) -> Response:
        """`POST /v1/classify`."""
        body: ClassifyPairs | ClassifyTexts
        if self._release.card.pair:
            body = await self._read(request, ClassifyPairs)
        else:
            body = await self._read(request, ClassifyTexts)
        predictions = await self._predict(request, body.texts)
        answers = [self._answer(prediction) for prediction in predictions]
        response: type[BaseModel] = RESPONSES[self._release.card.kind]
        return _json(response.model_construct(predictions=answers, model=self._version))

    def _answer(self, prediction: Prediction) -> BaseModel:
        cut = prediction.truncated
        label: Any = prediction.label
        if self._release.card.kind == "regression":
            return NumberAnswer.model_construct(score=label, truncated=cut)
        found = dict(zip(self._names, prediction.probabilities, strict=True))
        if self._release.card.kind == "multi_label":
            return LabelsAnswer.model_construct(labels=label, probabilities=found, truncated=cut)
        return Answer.model_construct(label=label, probabilities=found, truncated=cut)

    async def predict(self, request: Request) -> Response:
        """`POST /predict`."""
        body = await self._read(request, PredictRequest)
        texts, single = self._texts(body)
        predictions = await self._predict(request, texts)
        for position, prediction in enumerate(predictions):
            if prediction.truncated and not body.truncate and body.parameters is None:
                limit = self._release.card.max_length
                raise RefusedError(
                    413,
                    "Validation",
                    f"inputs[{position}] is longer than {limit} tokens; send truncate: true to cut it",
                )
        scores = [
            [
                Score.model_construct(label=self._names[index], score=score)
                for index, score in scored(prediction, body, self._release.card.kind)
            ]
            for prediction in predictions
        ]
        return _json(scores[0] if single and body.parameters is None else scores)

    async def info(self, _: Request) -> Response:
        """`GET /info`."""
        release, limits, card = self._release, self._limits, self._release.card
        model = card.model_dump(include={"task", "variant", "labels", "pair", "max_length", "temperature"})
        named = {name: getattr(limits, name) for name in ("max_texts", "max_characters", "max_body_bytes")}
        lineage = {"candidate": release.candidate, "files": release.sums, "git_commit": release.settings.git_commit}
        return _json(
            Info(
                name=release.settings.name,
                bento=release.tag,
                model=model,
                limits=named | {"max_tokens": card.max_length},
                lineage=lineage | {"verified": "bento" if release.sealed else "model"},
            )
        )

    async def _read(self, request: Request, kind: type[B]) -> B:
        """The checked body of a request."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "MediaType", "the body must be JSON, sent with content-type: application/json")
        body = await _bounded_body(request, self._limits.max_body_bytes)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise _misfit(error) from error

    def _texts(self, body: PredictRequest) -> tuple[list[Text], bool]:
        """The texts of a `/predict` body, and whether it asked about one text alone."""
        inputs, pair = body.inputs, self._release.card.pair
        if isinstance(inputs, str):
            rows, single = [[inputs]], True
        elif isinstance(inputs[0], str):
            rows, single = ([inputs], True) if pair else ([[text] for text in inputs], False)
        else:
            rows, single = inputs, False
        if any(len(row) != 1 + pair for row in rows):
            raise RefusedError(
                422, "Validation", f"inputs: this model classifies {'pairs of texts' if pair else 'single texts'}"
            )
        return [(row[0], row[1]) if pair else row[0] for row in rows], single

    async def _predict(self, request: Request, texts: Sequence[Text]) -> list[Prediction]:
        self._check(texts)
        return await self._run(request, lambda student: student.predict(texts))

    async def _run(self, request: Request, work: Callable[[Student], list[A]]) -> list[A]:
        """What the student answers, computed in a thread in its turn."""
        student: Student | None = request.app.state.student
        if student is None:
            raise RefusedError(503, "Unavailable", "the model is not loaded yet; wait until /readyz answers")
        return await anyio.to_thread.run_sync(work, student, limiter=_limiter(request, student))

    def _check(self, texts: Sequence[Text]) -> None:
        """Refuse what is over a limit, before it is tokenized."""
        what = "question" if self._release.card.kind == "question_answering" else "text"
        if len(texts) > self._limits.max_texts:
            raise RefusedError(413, "TooManyTexts", f"{len(texts)} {what}s; at most {self._limits.max_texts} a request")
        for position, text in enumerate(texts):
            characters = len(text) if isinstance(text, str) else sum(map(len, text))
            if characters > self._limits.max_characters:
                limit = self._limits.max_characters
                raise RefusedError(
                    413, "TextTooLong", f"{what} {position} has {characters} characters; at most {limit}"
                )


def _limiter(request: Request, student: Student) -> CapacityLimiter:
    """At most as many requests are computed at once as there are cores; the others wait in order."""
    state = request.app.state
    if not hasattr(state, "limiter"):
        state.limiter = CapacityLimiter(student.threads)
    return cast(CapacityLimiter, state.limiter)


async def _bounded_body(request: Request, limit: int) -> bytes:
    """The body, counted while it arrives, so that no more than the limit is ever held."""
    declared = request.headers.get("content-length", "")
    held = bytearray()
    if not (declared.isdecimal() and int(declared) > limit):
        async for chunk in request.stream():
            held += chunk
            if len(held) > limit:
                break
        else:
            return bytes(held)
    raise RefusedError(413, "BodyTooLarge", f"the body is over {limit} bytes")


def _misfit(error: ValidationError) -> RefusedError:
    item = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if item["type"] == "json_invalid":
        return RefusedError(400, "MalformedJson", f"the body is not JSON: {item['msg'].removeprefix('Invalid JSON: ')}")
    if item["loc"][:1] == ("inputs",):
        message = "inputs must be a text, a list of texts, or a batch [[text], ...] (pairs: [[text, text], ...])"
        return RefusedError(422, "Validation", message)
    where = ".".join(map(str, item["loc"]))
    return RefusedError(422, "Validation", f"{where}: {item['msg']}" if where else item["msg"])


def _json(value: object, status: int = 200) -> Response:
    body = value if isinstance(value, bytes) else to_json(value)
    return Response(body, status, media_type="application/json")


def _failure(status: int, kind: str, message: str) -> Response:
    return _json(Failure(error=message, error_type=kind, request_id=uuid.uuid4().hex), status)


def _refused(_: Request, error: Exception) -> Response:
    refused = cast(RefusedError, error)
    return _failure(refused.status, refused.kind, str(refused))


def _http_error(_: Request, error: Exception) -> Response:
    known = cast(HTTPException, error)
    response = _failure(known.status_code, "Http", known.detail)
    response.headers.update(known.headers or {})
    return response


def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is left to read it


def _unexpected(_: Request, __: Exception) -> Response:
    return _failure(500, "Internal", "the request could not be answered; the service's log has the cause")
