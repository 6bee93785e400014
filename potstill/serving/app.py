"""The HTTP endpoints as a Starlette application that is mounted in the Bento.

They are not BentoML's typed endpoints, because those take twice the time of a request, answer an invalid body in
another form, and accept pickled bodies. Validated bodies and an OpenAPI description are implemented here instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from potstill.inference.certainty import answer_confidence
from potstill.inference.occlusion import Occlusion
from potstill.inference.profile import Answer
from potstill.inference.runtime import Prediction, Row, Student, Text, Work, characters
from potstill.serving import schemas
from potstill.serving.batching import Batcher, OverloadError
from potstill.serving.middleware import failure_body, wants_page
from potstill.serving.openapi import describe, typed_endpoint
from potstill.serving.predict_scores import ranked_scores
from potstill.serving.release import Release
from potstill.serving.shadow import Shadow, start_shadow
from potstill.serving.telemetry import TRIAL, Metrics, record_of
from potstill.serving.watcher import AnsweredRequest, Watcher, start_watcher

Result = TypeVar("Result")
Body = TypeVar("Body", bound=BaseModel)
PairsBody = TypeVar("PairsBody", bound=BaseModel)
# Time for a body to arrive, so that a caller that sends nothing does not hold resources for ever.
BODY_SECONDS = 30.0
# Total size of all bodies that are arriving; at least twice `max_body_bytes`.
ARRIVING_BYTES = 64_000_000
# Seconds between two checks whether the model is loaded.
LOADING_PAUSE = 0.02
# Seconds after which a waiting request is watched for a disconnect.
WATCH_SECONDS = 0.1
# The page loads nothing from other sites and cannot be framed.
PAGE = (Path(__file__).parent / "page.html").read_bytes()
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "vary": "accept",
}
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class RefusedError(Exception):
    """A request that is refused because of the caller's error."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


def create_app(release: Release, metrics: Metrics) -> Starlette:
    """Create the application, without middleware. It answers once `start` has given it a student."""
    endpoints = Endpoints(release)
    serve = release.settings.serve
    routes = [*endpoints.task_routes(), Route("/info", endpoints.info)]
    if serve.docs:
        description = JSONResponse(describe(release)).body
        routes.append(Route("/openapi.json", lambda _: _json(description)))
    if serve.metrics:
        routes.append(Route("/metrics", lambda _: Response(metrics.exposition(), media_type=PROMETHEUS)))
    # This replaces BentoML's page, which loads trackers.
    routes.append(Route("/", endpoints.index))
    app = Starlette(
        routes=routes,
        exception_handlers={
            RefusedError: _refused,
            OverloadError: _overloaded,
            HTTPException: _http_error,
            ClientDisconnect: _disconnected,
            Exception: _unexpected,
        },
        lifespan=_lifespan,
    )
    # Redirects next to a proxy with TLS would send the caller, with its key, to an address without it.
    app.router.redirect_slashes = False
    app.state.batcher = None
    app.state.observers = []
    app.state.metrics = metrics
    return app


def start(app: Starlette, release: Release, student: Student) -> None:
    """Give the application a student, so that it answers."""
    serve = release.settings.serve
    metrics = cast(Metrics, app.state.metrics)
    batcher = Batcher(student, serve.max_queue, serve.max_queue_seconds, metrics)
    batcher.start()
    metrics.watch_queue(lambda: batcher.waiting)
    watcher = start_watcher(release, metrics.registry)
    app.state.observers = [] if watcher is None else [watcher]
    app.state.batcher = batcher  # from here on requests are answered
    # The shadow comes last, so that a challenger that is slow or broken delays no request.
    shadow = start_shadow(release, metrics.registry)
    if shadow is not None:
        app.state.observers.append(shadow)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """Close the observers when the server ends, so that open windows are written."""
    yield
    for observer in app.state.observers:
        await asyncio.to_thread(observer.close)


class Endpoints:
    """The endpoints of a release."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._limits = release.settings.serve
        card = release.card
        self._names = [str(label) for label in card.labels]
        self._arriving = ArrivingBytes(max(ARRIVING_BYTES, 2 * self._limits.max_body_bytes))
        self._version = schemas.ModelVersion(bento=release.tag, candidate=release.candidate, variant=card.variant)

    def task_routes(self) -> list[Route]:
        """Return the routes for this model's task; all other paths give 404."""
        typed = typed_endpoint(self._release.card)
        endpoint = {"tag": self.tag, "answer": self.answer, "classify": self.classify}[typed.name]
        routes = [Route(typed.path, endpoint, methods=["POST"])]
        if typed.name == "classify":
            # Text Embeddings Inference has both paths.
            routes += [Route(path, self.predict, methods=["POST"]) for path in ("/predict", "/")]
            routes.append(Route("/v1/explain", self.explain, methods=["POST"]))
        return routes

    async def tag(self, request: Request) -> Response:
        """Answer `POST /v1/tag`."""
        body = await self._read(request, schemas.TagTexts)
        taggings = await self._run(request, body.texts, lambda student: student.tag_work(body.texts))
        answers = [
            {
                "entities": [schemas.Entity.model_construct(**asdict(entity)) for entity in tagging.entities],
                "windows": tagging.windows,
            }
            for tagging in taggings
        ]
        return self._respond(request, taggings, answers)

    async def answer(self, request: Request) -> Response:
        """Answer `POST /v1/answer`."""
        body = await self._read(request, schemas.AnswerQuestions)
        questions = [(item.question, item.context) for item in body.questions]
        replies = await self._run(request, questions, lambda student: student.answer_work(questions))
        return self._respond(request, replies, [asdict(reply) for reply in replies])

    async def classify(self, request: Request) -> Response:
        """Answer `POST /v1/classify`."""
        body = await self._read_texts_or_pairs(request, schemas.ClassifyTexts, schemas.ClassifyPairs)
        predictions = await self._run(request, body.texts, lambda student: student.predict_work(body.texts))
        return self._respond(request, predictions, [self._fields(prediction) for prediction in predictions])

    def _fields(self, prediction: Prediction) -> dict[str, Any]:
        if self._release.card.form == "number":
            return {"score": prediction.label, "truncated": prediction.truncated}
        probabilities = dict(zip(self._names, prediction.probabilities, strict=True))
        name = "labels" if self._release.card.form == "labels" else "label"
        return {name: prediction.label, "probabilities": probabilities, "truncated": prediction.truncated}

    def _respond(self, request: Request, answers: Sequence[Answer], fields: list[dict[str, Any]]) -> Response:
        """Make the response of the typed endpoint; a release with a threshold says which answers it abstains from.

        Args:
            request: the request.
            answers: [texts] of the student.
            fields: [texts] their fields in the response.
        """
        threshold = self._release.settings.abstain_below
        if threshold is not None:
            abstained = [answer_confidence(answer) < threshold for answer in answers]
            fields = [{**row, "abstained": flag} for row, flag in zip(fields, abstained, strict=True)]
            if not request.scope.get(TRIAL):
                cast(Metrics, request.app.state.metrics).abstained(abstained)
        answer, response = self._release.answering
        predictions = [answer.model_construct(**row) for row in fields]
        return _json(response.model_construct(predictions=predictions, model=self._version))

    async def predict(self, request: Request) -> Response:
        """Answer `POST /predict`."""
        body = await self._read_texts_or_pairs(request, schemas.PredictTexts, schemas.PredictPairs)
        texts, is_single = _texts(body)

        def prepare(student: Student) -> Work[Prediction]:
            work = student.predict_work(texts)
            if not body.truncate and body.parameters is None:
                self._refuse_truncated(cast(Sequence[Row], work.rows))
            return work

        predictions = await self._run(request, texts, prepare)
        scores = [
            [
                schemas.Score.model_construct(label=self._names[index], score=score)
                for index, score in ranked_scores(prediction, body, self._release.card.kind)
            ]
            for prediction in predictions
        ]
        return _json(scores[0] if is_single and body.parameters is None else scores)

    def _refuse_truncated(self, rows: Sequence[Row]) -> None:
        """Refuse texts that would be cut, before they are computed and counted."""
        for position, row in enumerate(rows):
            if row.truncated:
                limit = self._release.card.max_length
                message = f"inputs[{position}] is longer than {limit} tokens; send truncate: true to cut it"
                raise RefusedError(413, "Validation", message)

    async def explain(self, request: Request) -> Response:
        """Answer `POST /v1/explain` with at most `max_texts` texts of work, the whole text included."""
        body = await self._read_texts_or_pairs(request, schemas.ExplainText, schemas.ExplainPair)
        index = self._label_index(body.label)
        self._check([body.text])
        occlusion = Occlusion(body.text, self._limits.explained_words)
        texts = occlusion.texts
        predictions = await self._run(request, texts, lambda student: student.predict_work(texts), watched=False)
        explanation = occlusion.explain(predictions, index)
        label = None if self._release.card.form == "number" else self._names[explanation.index]
        response = schemas.ExplainResponse.model_construct(
            label=label,
            score=explanation.score,
            weights=[schemas.Weight.model_construct(**asdict(word)) for word in explanation.words],
            truncated=explanation.truncated,
            model=self._version,
        )
        return _json(response)

    def _label_index(self, label: str | None) -> int | None:
        """Find the index of a requested label; None if the request names no label."""
        if label is None:
            return None
        if label not in self._names or self._release.card.form == "number":
            raise RefusedError(422, "Validation", "label: /info names the labels of this model")
        return self._names.index(label)

    async def info(self, _: Request) -> Response:
        """Answer `GET /info`."""
        release = self._release
        card = release.card
        model = card.model_dump(include={"task", "variant", "labels", "pair", "max_length", "temperature"})
        if release.settings.abstain_below is not None:
            model["abstain_below"] = release.settings.abstain_below
        names = ("max_texts", "max_characters", "max_body_bytes", "max_queue", "max_queue_seconds")
        limits = {name: getattr(self._limits, name) for name in names}
        verification = {"sum": release.lineage_sum, "verified": "bento" if release.sealed else "model"}
        return _json(
            schemas.Info(
                name=release.settings.name,
                bento=release.tag,
                model=model,
                limits=limits | {"max_tokens": card.max_length},
                lineage=release.lineage | verification,
            )
        )

    async def index(self, request: Request) -> Response:
        """Answer `GET /`: a browser gets the page, other clients get the response of `/info`."""
        if self._limits.page and wants_page(request.scope):
            return Response(PAGE, media_type="text/html", headers=PAGE_HEADERS)
        return await self.info(request)

    async def _read(self, request: Request, kind: type[Body]) -> Body:
        """Read and validate the body of a request."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "MediaType", "the body must be JSON, sent with content-type: application/json")
        if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise RefusedError(415, "MediaType", "the body must not be compressed: send it without content-encoding")
        body = await _bounded_body(request, self._limits.max_body_bytes, self._arriving)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise _invalid_body(error) from error

    def _read_texts_or_pairs(
        self, request: Request, texts: type[Body], pairs: type[PairsBody]
    ) -> Coroutine[Any, Any, Body | PairsBody]:
        """Read and validate the body of a request, whose form depends on whether the model takes pairs."""
        if self._release.card.pair:
            return self._read(request, pairs)
        return self._read(request, texts)

    async def _run(
        self,
        request: Request,
        texts: Sequence[Text],
        prepare: Callable[[Student], Work[Result]],
        *,
        watched: bool = True,
    ) -> list[Result]:
        """Queue work for the student and return its answers; only texts of users are `watched`."""
        self._check(texts)
        batcher = await self._batcher(request)
        length = sum(map(characters, texts))
        answered = await _until_disconnect(request, batcher.answer(len(texts), length, prepare))
        record = record_of(request.scope)
        record.times = answered.times
        if watched and not request.scope.get(TRIAL):
            answers = cast(list[Answer], answered.answers)
            times = answered.times
            observed = AnsweredRequest(record.id, texts, answered.rows, answers, times.infer, answered.began)
            for observer in cast(list[Watcher | Shadow], request.app.state.observers):
                observer.observe(observed)
        return answered.answers

    async def _batcher(self, request: Request) -> Batcher:
        """Return the queue; while a replaced worker loads its model, callers wait here as long as in the queue."""
        end = time.monotonic() + self._limits.max_queue_seconds
        while request.app.state.batcher is None:
            if time.monotonic() > end:
                raise RefusedError(503, "Unavailable", "the model is not loaded yet; wait until /readyz answers")
            await asyncio.sleep(LOADING_PAUSE)
        return cast(Batcher, request.app.state.batcher)

    def _check(self, texts: Sequence[Text]) -> None:
        """Refuse a request that exceeds a limit, before it is tokenized."""
        unit = "question" if self._release.card.form == "span" else "text"
        if len(texts) > self._limits.max_texts:
            raise RefusedError(413, "TooManyTexts", f"{len(texts)} {unit}s; at most {self._limits.max_texts} a request")
        for position, text in enumerate(texts):
            length = characters(text)
            if length > self._limits.max_characters:
                limit = self._limits.max_characters
                raise RefusedError(413, "TextTooLong", f"{unit} {position} has {length} characters; at most {limit}")


def _texts(body: schemas.PredictTexts | schemas.PredictPairs) -> tuple[list[Text], bool]:
    """Return the texts of a `/predict` body, and whether it has a single text or pair outside a list."""
    inputs = body.inputs
    if isinstance(inputs, (str, tuple)):
        return [inputs], True
    return [row[0] if isinstance(row, list) else row for row in inputs], False


async def _until_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Await the result of `work`, which is cancelled if the caller disconnects.

    Raises:
        ClientDisconnect: the caller has disconnected.
    """
    task = asyncio.current_task()
    assert task is not None
    is_disconnected = False

    async def watch() -> None:
        nonlocal is_disconnected
        while (await request.receive())["type"] != "http.disconnect":
            pass
        is_disconnected = True
        task.cancel()

    watchers: list[asyncio.Task[None]] = []
    # Most requests are answered before watching would be worth its cost.
    timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, lambda: watchers.append(asyncio.create_task(watch())))
    try:
        return await work
    except asyncio.CancelledError:
        if is_disconnected:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()


@dataclass
class ArrivingBytes:
    """The bytes of all bodies that are arriving, and their limit."""

    limit: int
    size: int = 0

    def add(self, size: int) -> None:
        """Count further bytes.

        Raises:
            OverloadError: they would exceed the limit.
        """
        if self.size + size > self.limit:
            raise OverloadError(f"bodies of {self.size} bytes are arriving already; try again later", 1)
        self.size += size


async def _bounded_body(request: Request, limit: int, arriving: ArrivingBytes) -> bytes:
    """Read the body, and count it while it arrives, so that no more than the limit is held."""
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if not (declared.isdecimal() and int(declared) > limit):
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    arriving.add(len(chunk))
                    body += chunk
                    if len(body) > limit:
                        break
                else:
                    return bytes(body)
        except TimeoutError:
            raise RefusedError(408, "Timeout", f"the body did not arrive within {BODY_SECONDS:g} s") from None
        finally:
            arriving.size -= len(body)
    raise RefusedError(413, "BodyTooLarge", f"the body is over {limit} bytes")


def _invalid_body(error: ValidationError) -> RefusedError:
    item = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if item["type"] == "json_invalid":
        return RefusedError(400, "MalformedJson", f"the body is not JSON: {item['msg'].removeprefix('Invalid JSON: ')}")
    if item["loc"][:1] == ("inputs",):
        message = (
            "inputs must be a text, a list of texts, or a batch [[text], ...]; of a model of pairs [text, text] or "
            "[[text, text], ...]"
        )
        return RefusedError(422, "Validation", message)
    field = ".".join(map(str, item["loc"]))
    return RefusedError(422, "Validation", f"{field}: {item['msg']}" if field else item["msg"])


def _json(value: object) -> Response:
    body = value if isinstance(value, bytes) else to_json(value)
    return Response(body, media_type="application/json")


def _failure(
    request: Request, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    body = failure_body(kind, message, record_of(request.scope))
    return Response(body, status, headers, media_type="application/json")


# Starlette's types do not say which exceptions a handler gets.


def _refused(request: Request, error: Any) -> Response:
    return _failure(request, error.status, error.kind, str(error))


def _overloaded(request: Request, error: Any) -> Response:
    return _failure(request, 429, "Overloaded", str(error), {"retry-after": str(error.retry_after)})


def _http_error(request: Request, error: Any) -> Response:
    return _failure(request, error.status_code, "Http", error.detail, error.headers)


def _disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # the caller does not read it


def _unexpected(request: Request, __: Exception) -> Response:
    return _failure(request, 500, "Internal", "the request could not be answered; the service's log has the cause")
