"""A hub on the loopback interface: enough of the real one's HTTP for `huggingface_hub` to fetch what it needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

REVISION = "0123456789abcdef0123456789abcdef01234567"
Repositories = dict[tuple[str, str], dict[str, bytes]]


@dataclass
class Manners:
    """How a hub behaves, and what it was asked.

    Attributes:
        token: without it every repository is hidden, as private ones are.
        gated: whether access has to be asked for.
        cut: name of a file -> how many answers about it end in the middle.
        altered: name of a file that is sent with other bytes of the same number.
        sent: names of the files that were sent, with the bytes of each answer.
    """

    token: str | None = None
    gated: bool = False
    cut: dict[str, int] = field(default_factory=dict)
    altered: str | None = None
    sent: list[tuple[str, int]] = field(default_factory=list)


class LocalHub:
    """Serves repositories: ("models" or "datasets", id) -> file name -> bytes, all at one revision."""

    def __init__(self, repositories: Repositories, manners: Manners | None = None) -> None:
        self.manners = manners or Manners()
        handler = type("Handler", (_Handler,), {"repositories": repositories, "manners": self.manners})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    repositories: Repositories
    manners: Manners

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if self.manners.token and self.headers.get("Authorization") != f"Bearer {self.manners.token}":
            return self._refuse(401, "RepoNotFound")
        for (kind, name), files in self.repositories.items():
            if path.startswith(f"/api/{kind}/{name}/"):
                if REVISION not in path:
                    return self._refuse(404, "RevisionNotFound")
                return self._describe(path, name, files, body=body)
            prefix = f"{'/datasets' if kind == 'datasets' else ''}/{name}/resolve/{REVISION}/"
            if path.startswith(prefix):
                return self._file(path.removeprefix(prefix), files, body=body)
        return self._refuse(404, "RepoNotFound")

    def _describe(self, path: str, name: str, files: dict[str, bytes], *, body: bool) -> None:
        if f"/tree/{REVISION}" in path:
            answer: Any = [
                {"type": "file", "path": file, "size": len(data), "oid": "0" * 40} for file, data in files.items()
            ]
        else:
            siblings = [
                {"rfilename": file, "size": len(data), "blobId": "0" * 40, "lfs": _lfs(data)}
                for file, data in files.items()
            ]
            answer = {"id": name, "sha": REVISION, "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body=body)

    def _file(self, name: str, files: dict[str, bytes], *, body: bool) -> None:
        if self.manners.gated:
            return self._refuse(403, "GatedRepo")
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        data = files[name]
        headers = {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if name == self.manners.altered:
            data = bytes(byte ^ 1 for byte in data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = 200
        if asked is not None and body:
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            data, status = data[first : last + 1], 206
        sent = len(data)
        if body and self.manners.cut.get(name, 0) > 0:
            self.manners.cut[name] -= 1
            sent //= 2
        if body:
            self.manners.sent.append((name, sent))
        self._send(status, data, headers, body=body, sent=sent)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code}, body=True)

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool, sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:sent])
        if sent is not None and sent < len(data):
            self.close_connection = True


def _lfs(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
