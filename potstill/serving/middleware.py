"""ASGI middleware of every request: record and headers, CORS, API keys.

It wraps BentoML's routes as well as Potstill's, so that keys protect all of them and every response names the model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from starlette.middleware.cors import CORSMiddleware

from potstill.serving.keys import Keys
from potstill.serving.release import Release
from potstill.serving.schemas import Failure
from potstill.serving.telemetry import RECORD, Metrics, Record, record_of, request_id

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The probes of an orchestrator, which need no key.
OPEN = ("/livez", "/readyz", "/healthz")
# The paths that BentoML answers.
BENTO = frozenset((*OPEN, "/schema.json"))
DOCS = ("/schema.json", "/openapi.json", "/docs.json")
# Paths that get labels in metrics; arbitrary paths would create labels without limit.
KNOWN = frozenset(
    (*OPEN, *DOCS, "/", "/predict", "/info", "/metrics", "/v1/classify", "/v1/tag", "/v1/answer", "/v1/explain")
)
ID, TIMING = b"x-request-id", b"server-timing"
MODEL, TAG, LINEAGE = b"x-model-version", b"x-bento-tag", b"x-lineage-sum"
_LOG = logging.getLogger("bentoml.access")
# Messages for BentoML's untyped errors.
_MESSAGES = {404: "Not Found", 405: "Method Not Allowed", 503: "not ready yet; wait until /readyz answers"}


def add_middleware(app: App, release: Release, keys: Keys, metrics: Metrics) -> App:
    """Wrap an application in all middleware."""
    serve = release.settings.serve
    inner: App = AccessGuard(app, keys, metrics, docs=serve.docs, page=serve.page)
    if serve.cors_origins:
        exposed = [name.decode() for name in (ID, TIMING, MODEL, TAG, LINEAGE)]
        inner = CORSMiddleware(
            inner,
            allow_origins=serve.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", ID.decode()],
            expose_headers=[*exposed, "retry-after"],
        )
    return RequestTracker(inner, release, metrics, log=serve.access_log)


class RequestTracker:
    """Adds a record to each request and headers to each response, counts them, and gives every error a typed body."""

    def __init__(self, app: App, release: Release, metrics: Metrics, *, log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._headers = [(MODEL, release.model_version.encode()), (LINEAGE, release.lineage_sum.encode())]
        if release.tag is not None:
            self._headers.append((TAG, release.tag.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(request_id(header(scope, ID)))
        scope[RECORD] = record
        status = 0
        replaced = False

        async def send_tracked(message: Message) -> None:
            nonlocal status, replaced
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                replaced = status >= 400 and not _is_json(headers)
                if replaced:
                    kind = "Unavailable" if status == 503 else "Http"
                    body = failure_body(kind, _MESSAGES.get(status, "the request could not be answered"), record)
                    headers = [(name, value) for name, value in headers if name in (b"allow", b"retry-after")]
                    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
                headers += [*self._headers, (ID, record.id.encode()), (TIMING, record.server_timing().encode())]
                await send({**message, "headers": headers})
                if replaced:
                    await send({"type": "http.response.body", "body": body})
            elif not replaced:
                await send(message)

        try:
            await self._app(scope, receive, send_tracked)
        finally:
            self._finish(scope, record, status or 500)

    def _finish(self, scope: Scope, record: Record, status: int) -> None:
        seconds = time.perf_counter() - record.start
        path = scope["path"]
        self._metrics.answered(path if path in KNOWN else "other", status, seconds)
        if self._log:
            # A decoded path can contain line breaks, by which a caller could forge lines of the log.
            escaped = path.encode("unicode_escape").decode("ascii")
            key = record.key or "-"
            _LOG.info("%s %s %s %d %.1fms key=%s", record.id, scope["method"], escaped, status, seconds * 1000, key)


@dataclass(frozen=True)
class AccessGuard:
    """Refuses requests without a key before their body is read, and hides endpoints that are switched off."""

    app: App
    keys: Keys
    metrics: Metrics
    docs: bool
    page: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = record_of(scope)
        if self.keys and not self._is_open(scope):
            authorization = header(scope, b"authorization")
            record.key = self.keys.owner(authorization.decode("latin-1") if authorization else None)
            if record.key is None:
                self.metrics.refused("key")
                message = "an API key is needed: send authorization: Bearer KEY"
                await send_failure(send, 401, "Unauthorized", message, record, [(b"www-authenticate", b"Bearer")])
                return
        if scope["path"] in DOCS and not self.docs:
            await send_failure(send, 404, "Http", _MESSAGES[404], record)
            return
        await self.app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        # The page is the same for everyone and asks for a key itself.
        return scope["path"] in OPEN or (self.page and wants_page(scope))


def bypass_bento(app: App, bento: App) -> App:
    """Route requests for BentoML's paths to BentoML, and all others directly to the application."""

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        is_direct = scope["type"] == "http" and scope["path"] not in BENTO
        await (app if is_direct else bento)(scope, receive, send)

    return route


def wants_page(scope: Scope) -> bool:
    """Whether a browser requests the page at /."""
    return scope["path"] == "/" and scope["method"] == "GET" and b"text/html" in (header(scope, b"accept") or b"")


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of a name, or None."""
    value: bytes | None = next((value for key, value in scope["headers"] if key == name), None)
    return value


def failure_body(kind: str, message: str, record: Record) -> bytes:
    """Encode the body of an error."""
    return to_json(Failure(error=message, error_type=kind, request_id=record.id))


async def send_failure(
    send: Send, status: int, kind: str, message: str, record: Record, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send an error response."""
    body = failure_body(kind, message, record)
    all_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})


def _is_json(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"application/json") for name, value in headers)
