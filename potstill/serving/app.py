"""The HTTP endpoints as one Starlette application, mounted in the Bento.

Mounted rather than declared as BentoML's typed endpoints: those cost twice the time of a request, answer a wrong body
in their own form, and accept pickled bodies. What they would give, checked bodies and an OpenAPI description, is here.
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

from potstill.inference.occlusion import parts_of, score_of, spans_of, without
from potstill.inference.profile import Answer as Said
from potstill.inference.runtime import Prediction, Student, Text, Work, characters
from potstill.serving.batching import Batcher, OverloadError
from potstill.serving.front import failure, wants_page
from potstill.serving.openapi import describe, typed_endpoint
from potstill.serving.predict_scores import scored
from potstill.serving.release import Release
from potstill.serving.schemas import (
    RESPONSES,
    Answer,
    AnswerQuestions,
    AnswerResponse,
    ClassifyPairs,
    ClassifyTexts,
    Entity,
    ExplainPair,
    ExplainResponse,
    ExplainText,
    Info,
    LabelsAnswer,
    ModelVersion,
    NumberAnswer,
    PredictPairs,
    PredictTexts,
    Reply,
    Score,
    Tagged,
    TagResponse,
    TagTexts,
    Weight,
)
from potstill.serving.shadow import Shadow, shadow_of
from potstill.serving.telemetry import TRIAL, Metrics, record_of
from potstill.serving.watcher import Item, Watcher, watcher_of

A = TypeVar("A")
B = TypeVar("B", bound=BaseModel)
# That a body may take to arrive; else callers that send nothing would hold their places for ever.
BODY_SECONDS = 30.0
# Of all bodies that are arriving, together; twice the largest one's where that is more.
ARRIVING_BYTES = 64_000_000
# Between two looks whether the model is there yet.
LOADING_PAUSE = 0.02
# A request that still waits after so many seconds is watched for its caller leaving.
WATCH_SECONDS = 0.1
# It loads nothing from elsewhere and can be in no frame.
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
    """A request that is answered with an error of the caller's making."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def create_app(release: Release, metrics: Metrics) -> Starlette:
    """The application, to be put behind `front`. It answers once `start` has given it a student."""
    endpoints, serve = Endpoints(release), release.settings.serve
    routes = [*endpoints.of_the_task(), Route("/info", endpoints.info)]
    if serve.docs:
        description = JSONResponse(describe(release)).body
        routes.append(Route("/openapi.json", lambda _: _json(description)))
    if serve.metrics:
        routes.append(Route("/metrics", lambda _: Response(metrics.exposition(), media_type=PROMETHEUS)))
    # It takes the place of BentoML's page, which loads trackers.
    routes.append(Route("/", endpoints.index))
    app = Starlette(
        routes=routes,
        exception_handlers={
            RefusedError: _refused,
            OverloadError: _overloaded,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
        lifespan=_lifespan,
    )
    app.state.batcher = None
    app.state.observers = []
    app.state.metrics = metrics
    return app


def start(app: Starlette, release: Release, student: Student) -> None:
    """Let the application answer."""
    serve, metrics = release.settings.serve, cast(Metrics, app.state.metrics)
    batcher = Batcher(student, serve.max_queue, serve.max_queue_seconds, metrics)
    batcher.start()
    metrics.watch(lambda: batcher.waiting)
    watcher = watcher_of(release, metrics.registry)
    app.state.observers = [] if watcher is None else [watcher]
    app.state.batcher = batcher  # from here on it answers
    # After that, so that a challenger that is slow to load or broken keeps no request waiting.
    shadow = shadow_of(release, metrics.registry)
    if shadow is not None:
        app.state.observers.append(shadow)


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """When the server ends, what was seen is written."""
    yield
    for observer in app.state.observers:
        await asyncio.to_thread(observer.close)


class Endpoints:
    """The requests a release answers."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._limits = release.settings.serve
        card = release.card
        self._names = [str(label) for label in card.labels]
        self._arriving = Arriving(max(ARRIVING_BYTES, 2 * self._limits.max_body_bytes))
        self._version = ModelVersion(bento=release.tag, candidate=release.candidate, variant=card.variant)

    def of_the_task(self) -> list[Route]:
        """Where this model answers; elsewhere it says 404."""
        typed = typed_endpoint(self._release.card)
        answer = {"tag": self.tag, "answer": self.answer, "classify": self.classify}[typed.name]
        routes = [Route(typed.path, answer, methods=["POST"])]
        if typed.name == "classify":
            # Both as Text Embeddings Inference has them.
            routes += [Route(path, self.predict, methods=["POST"]) for path in ("/predict", "/")]
            routes.append(Route("/v1/explain", self.explain, methods=["POST"]))
        return routes

    async def tag(self, request: Request) -> Response:
        """`POST /v1/tag`."""
        body = await self._read(request, TagTexts)
        found = await self._run(request, body.texts, lambda student: student.tag_work(body.texts))
        answers = [
            Tagged.model_construct(
                entities=[Entity.model_construct(**asdict(entity)) for entity in tagging.entities],
                windows=tagging.windows,
            )
            for tagging in found
        ]
        return _json(TagResponse.model_construct(predictions=answers, model=self._version))

    async def answer(self, request: Request) -> Response:
        """`POST /v1/answer`."""
        body = await self._read(request, AnswerQuestions)
        asked = [(item.question, item.context) for item in body.questions]
        found = await self._run(request, asked, lambda student: student.answer_work(asked))
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
        body: PredictPairs | PredictTexts
        if self._release.card.pair:
            body = await self._read(request, PredictPairs)
        else:
            body = await self._read(request, PredictTexts)
        texts, single = _texts(body)
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

    async def explain(self, request: Request) -> Response:
        """`POST /v1/explain`: as many texts in one request as `max_texts` allows, the text itself among them."""
        body: ExplainPair | ExplainText
        if self._release.card.pair:
            body = await self._read(request, ExplainPair)
        else:
            body = await self._read(request, ExplainText)
        if body.label is not None and (body.label not in self._names or self._release.card.kind == "regression"):
            raise RefusedError(422, "Validation", "label: /info names the labels of this model")
        self._check([body.text])
        spans = spans_of(body.text, self._limits.max_texts - 1) if self._limits.max_texts > 2 else []
        texts = [body.text, *(without(body.text, span) for span in spans)]
        whole, *others = await self._run(request, texts, lambda student: student.predict_work(texts), watched=False)
        index = max(range(len(self._names)), key=whole.logits.__getitem__)
        if body.label is not None:
            index = self._names.index(body.label)
        score, parts = score_of(whole, index), parts_of(body.text)
        weights = [
            Weight.model_construct(
                **asdict(span),
                text=parts[span.part][span.start : span.end],
                weight=score - score_of(other, index),
            )
            for span, other in zip(spans, others, strict=True)
        ]
        label = None if self._release.card.kind == "regression" else self._names[index]
        found = ExplainResponse.model_construct(
            label=label, score=score, weights=weights, truncated=whole.truncated, model=self._version
        )
        return _json(found)

    async def info(self, _: Request) -> Response:
        """`GET /info`."""
        release, limits, card = self._release, self._limits, self._release.card
        model = card.model_dump(include={"task", "variant", "labels", "pair", "max_length", "temperature"})
        names = ("max_texts", "max_characters", "max_body_bytes", "max_queue", "max_queue_seconds")
        named = {name: getattr(limits, name) for name in names}
        verified = {"sum": release.lineage_sum, "verified": "bento" if release.sealed else "model"}
        return _json(
            Info(
                name=release.settings.name,
                bento=release.tag,
                model=model,
                limits=named | {"max_tokens": card.max_length},
                lineage=release.lineage | verified,
            )
        )

    async def index(self, request: Request) -> Response:
        """`GET /`: the page to a browser, to others what `/info` says."""
        if self._limits.page and wants_page(request.scope):
            return Response(PAGE, media_type="text/html", headers=PAGE_HEADERS)
        return await self.info(request)

    async def _read(self, request: Request, kind: type[B]) -> B:
        """The checked body of a request."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "MediaType", "the body must be JSON, sent with content-type: application/json")
        if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise RefusedError(415, "MediaType", "the body must not be compressed: send it without content-encoding")
        body = await _bounded_body(request, self._limits.max_body_bytes, self._arriving)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise _misfit(error) from error

    async def _predict(self, request: Request, texts: Sequence[Text]) -> list[Prediction]:
        return await self._run(request, texts, lambda student: student.predict_work(texts))

    async def _run(
        self, request: Request, texts: Sequence[Text], prepare: Callable[[Student], Work[A]], *, watched: bool = True
    ) -> list[A]:
        """What the student answers, in its turn; what is not `watched` is none of the users' texts."""
        self._check(texts)
        batcher = await self._batcher(request)
        length = sum(map(characters, texts))
        answered = await _while_wanted(request, batcher.answer(len(texts), length, prepare))
        record = record_of(request.scope)
        record.times = answered.times
        if watched and not request.scope.get(TRIAL):
            answers = cast(list[Said], answered.answers)
            item = Item(record.id, texts, answered.rows, answers, answered.times.infer, answered.began)
            for observer in cast(list[Watcher | Shadow], request.app.state.observers):
                observer.saw(item)
        return answered.answers

    async def _batcher(self, request: Request) -> Batcher:
        """The line. Until the model is there, as when a worker that died is replaced, callers wait as they do in it."""
        end = time.monotonic() + self._limits.max_queue_seconds
        while request.app.state.batcher is None:
            if time.monotonic() > end:
                raise RefusedError(503, "Unavailable", "the model is not loaded yet; wait until /readyz answers")
            await asyncio.sleep(LOADING_PAUSE)
        return cast(Batcher, request.app.state.batcher)

    def _check(self, texts: Sequence[Text]) -> None:
        """Refuse what is over a limit, before it is tokenized."""
        what = "question" if self._release.card.kind == "question_answering" else "text"
        if len(texts) > self._limits.max_texts:
            raise RefusedError(413, "TooManyTexts", f"{len(texts)} {what}s; at most {self._limits.max_texts} a request")
        for position, text in enumerate(texts):
            length = characters(text)
            if length > self._limits.max_characters:
                limit = self._limits.max_characters
                raise RefusedError(413, "TextTooLong", f"{what} {position} has {length} characters; at most {limit}")


def _texts(body: PredictTexts | PredictPairs) -> tuple[list[Text], bool]:
    """The texts of a `/predict` body, and whether it asked about one text (or pair) alone."""
    inputs = body.inputs
    if isinstance(inputs, (str, tuple)):
        return [inputs], True
    return [row[0] if isinstance(row, list) else row for row in inputs], False


async def _while_wanted(request: Request, work: Coroutine[Any, Any, A]) -> A:
    """The result of `work`, which is cancelled when the caller leaves before it is there.

    Raises:
        ClientDisconnect: the caller left.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watchers: list[asyncio.Task[None]] = []
    # Most requests are answered before it would pay to look.
    timer = asyncio.get_running_loop().call_later(WATCH_SECONDS, lambda: watchers.append(asyncio.create_task(watch())))
    try:
        return await work
    except asyncio.CancelledError:
        if gone:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()


@dataclass
class Arriving:
    """Bytes of all bodies that are arriving, which together may be so many."""

    limit: int
    held: int = 0

    def take(self, size: int) -> None:
        """Hold so many more.

        Raises:
            OverloadError: they would be too many.
        """
        if self.held + size > self.limit:
            raise OverloadError(f"bodies of {self.held} bytes are arriving already; ask again later", 1)
        self.held += size


async def _bounded_body(request: Request, limit: int, arriving: Arriving) -> bytes:
    """The body, counted while it arrives, so that no more than the limit is ever held."""
    declared = request.headers.get("content-length", "")
    held = bytearray()
    if not (declared.isdecimal() and int(declared) > limit):
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    arriving.take(len(chunk))
                    held += chunk
                    if len(held) > limit:
                        break
                else:
                    return bytes(held)
        except TimeoutError:
            raise RefusedError(408, "Timeout", f"the body did not arrive within {BODY_SECONDS:g} s") from None
        finally:
            arriving.held -= len(held)
    raise RefusedError(413, "BodyTooLarge", f"the body is over {limit} bytes")


def _misfit(error: ValidationError) -> RefusedError:
    item = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if item["type"] == "json_invalid":
        return RefusedError(400, "MalformedJson", f"the body is not JSON: {item['msg'].removeprefix('Invalid JSON: ')}")
    if item["loc"][:1] == ("inputs",):
        message = (
            "inputs must be a text, a list of texts, or a batch [[text], ...]; of a model of pairs [text, text] or "
            "[[text, text], ...]"
        )
        return RefusedError(422, "Validation", message)
    where = ".".join(map(str, item["loc"]))
    return RefusedError(422, "Validation", f"{where}: {item['msg']}" if where else item["msg"])


def _json(value: object, status: int = 200) -> Response:
    body = value if isinstance(value, bytes) else to_json(value)
    return Response(body, status, media_type="application/json")


def _failure(
    request: Request, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    body = failure(kind, message, record_of(request.scope))
    return Response(body, status, headers, media_type="application/json")


def _refused(request: Request, error: Exception) -> Response:
    refused = cast(RefusedError, error)
    return _failure(request, refused.status, refused.kind, str(refused))


def _overloaded(request: Request, error: Exception) -> Response:
    after = cast(OverloadError, error).retry_after
    return _failure(request, 429, "Overloaded", str(error), {"retry-after": str(after)})


def _http_error(request: Request, error: Exception) -> Response:
    known = cast(HTTPException, error)
    return _failure(request, known.status_code, "Http", known.detail, known.headers)


def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody is left to read it


def _unexpected(request: Request, __: Exception) -> Response:
    return _failure(request, 500, "Internal", "the request could not be answered; the service's log has the cause")
