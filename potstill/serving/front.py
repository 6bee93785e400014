"""What every request passes before it is answered: its record and headers, CORS, API keys. Plain ASGI.

Around BentoML's own routes as well as ours, so that no door is left open and every answer says who gave it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
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

# What an orchestrator asks, without a key.
OPEN = ("/livez", "/readyz", "/healthz")
# What BentoML answers.
BENTO = frozenset((*OPEN, "/schema.json"))
DOCS = ("/schema.json", "/openapi.json", "/docs.json")
# The names of metrics: whatever else is asked for would make new ones without end.
KNOWN = frozenset(
    (*OPEN, *DOCS, "/", "/predict", "/info", "/metrics", "/v1/classify", "/v1/tag", "/v1/answer", "/v1/explain")
)
ID, TIMING = b"x-request-id", b"server-timing"
MODEL, TAG, LINEAGE = b"x-model-version", b"x-bento-tag", b"x-lineage-sum"
_LOG = logging.getLogger("bentoml.access")
# What BentoML says in words of its own.
_SAID = {404: "Not Found", 405: "Method Not Allowed", 503: "not ready yet; wait until /readyz answers"}


def front(app: App, release: Release, keys: Keys, metrics: Metrics) -> App:
    """All of it around an application."""
    serve = release.settings.serve
    inner: App = Guarded(app, keys, metrics, docs=serve.docs, page=serve.page)
    if serve.cors_origins:
        exposed = [name.decode() for name in (ID, TIMING, MODEL, TAG, LINEAGE)]
        inner = CORSMiddleware(
            inner,
            allow_origins=serve.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", ID.decode()],
            expose_headers=exposed,
        )
    return Tracked(inner, release, metrics, log=serve.access_log)


class Tracked:
    """Gives each request its record and each answer its headers, counts both, and gives every error its typed body."""

    def __init__(self, app: App, release: Release, metrics: Metrics, *, log: bool) -> None:
        self._app, self._metrics, self._log = app, metrics, log
        self._headers = [(MODEL, release.model_version.encode()), (LINEAGE, release.lineage_sum.encode())]
        if release.tag is not None:
            self._headers.append((TAG, release.tag.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(request_id(header(scope, ID)))
        scope[RECORD] = record
        status, replaced = 0, False

        async def tracked(message: Message) -> None:
            nonlocal status, replaced
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                replaced = status >= 400 and not _is_json(headers)
                if replaced:
                    kind = "Unavailable" if status == 503 else "Http"
                    body = failure(kind, _SAID.get(status, "the request could not be answered"), record)
                    headers = [(name, value) for name, value in headers if name in (b"allow", b"retry-after")]
                    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
                headers += [*self._headers, (ID, record.id.encode()), (TIMING, record.server_timing().encode())]
                await send({**message, "headers": headers})
                if replaced:
                    await send({"type": "http.response.body", "body": body})
            elif not replaced:
                await send(message)

        try:
            await self._app(scope, receive, tracked)
        finally:
            self._ended(scope, record, status or 500)

    def _ended(self, scope: Scope, record: Record, status: int) -> None:
        seconds, path = time.perf_counter() - record.start, scope["path"]
        self._metrics.answered(path if path in KNOWN else "other", status, seconds)
        if self._log:
            # Decoded it may hold line ends, and with them lines of the caller's making.
            key, plain = record.key or "-", path.encode("unicode_escape").decode("ascii")
            _LOG.info("%s %s %s %d %.1fms key=%s", record.id, scope["method"], plain, status, seconds * 1000, key)


class Guarded:
    """Refuses who has no key, before a byte of the body is read, and hides the doors that are closed."""

    def __init__(self, app: App, keys: Keys, metrics: Metrics, *, docs: bool, page: bool) -> None:
        self._app, self._keys, self._metrics, self._docs, self._page = app, keys, metrics, docs, page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record, path = record_of(scope), scope["path"]
        if self._keys and not self._is_open(scope):
            given = header(scope, b"authorization")
            record.key = self._keys.owner(given.decode("latin-1") if given else None)
            if record.key is None:
                self._metrics.refused("key")
                message = "an API key is needed: send authorization: Bearer KEY"
                await answer(send, 401, "Unauthorized", message, record, [(b"www-authenticate", b"Bearer")])
                return
        if path in DOCS and not self._docs:
            await answer(send, 404, "Http", _SAID[404], record)
            return
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        # The page is the same for everybody and asks for a key itself.
        page = self._page and wants_page(scope)
        return scope["path"] in OPEN or page


class Shortcut:
    """Asks one application about what is BentoML's, and the other about everything else."""

    def __init__(self, app: App, bento: App) -> None:
        self._app, self._bento = app, bento

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and end of the server."""
        ours = scope["type"] == "http" and scope["path"] not in BENTO
        await (self._app if ours else self._bento)(scope, receive, send)


def wants_page(scope: Scope) -> bool:
    """Whether a browser asks for the page at /."""
    return scope["path"] == "/" and scope["method"] == "GET" and b"text/html" in (header(scope, b"accept") or b"")


def header(scope: Scope, name: bytes) -> bytes | None:
    """A header of a request; of several the first."""
    found: bytes | None = next((value for key, value in scope["headers"] if key == name), None)
    return found


def failure(kind: str, message: str, record: Record) -> bytes:
    """The body of an error."""
    return to_json(Failure(error=message, error_type=kind, request_id=record.id))


async def answer(
    send: Send, status: int, kind: str, message: str, record: Record, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send an error."""
    body = failure(kind, message, record)
    about = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": about})
    await send({"type": "http.response.body", "body": body})


def _is_json(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"application/json") for name, value in headers)
