"""A hub on the loopback interface: enough of the real one's HTTP for `huggingface_hub` to fetch a snapshot."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

Repositories = dict[tuple[str, str], dict[str, bytes]]


class LocalHub:
    """Serves repositories: ("models" or "datasets", id) -> file name -> bytes, all at one revision."""

    def __init__(self, repositories: Repositories, revision: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _answer(self, *, body: bool) -> None:
                path = self.path.partition("?")[0]
                for (kind, name), files in repositories.items():
                    if path == f"/api/{kind}/{name}/revision/{revision}":
                        siblings = [{"rfilename": file} for file in files]
                        info = {"id": name, "sha": revision, "siblings": siblings}
                        return self._send(json.dumps(info).encode(), {"Content-Type": "application/json"}, body=body)
                    if path == f"/api/{kind}/{name}/tree/{revision}":
                        tree = [
                            {"type": "file", "path": file, "size": len(files[file]), "oid": "0" * 40} for file in files
                        ]
                        return self._send(json.dumps(tree).encode(), {"Content-Type": "application/json"}, body=body)
                    prefix = f"{'/datasets' if kind == 'datasets' else ''}/{name}/resolve/{revision}/"
                    if path.startswith(prefix) and (data := files.get(path.removeprefix(prefix))) is not None:
                        tag = f'"{hashlib.sha256(data).hexdigest()}"'
                        return self._send(data, {"X-Repo-Commit": revision, "ETag": tag}, body=body)
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _send(self, data: bytes, headers: dict[str, str], *, body: bool) -> None:
                self.send_response(200)
                for name, value in (headers | {"Content-Length": str(len(data))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
