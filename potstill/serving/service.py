"""The BentoML service: `bentoml build`, `bentoml serve` and `bentoml containerize` start here.

Everything is verified while this module is imported, in the process that was started as well as in its worker, so a
Bento whose bytes changed says so in one sentence and exits instead of restarting its worker for ever. The worker loads
its model beside the server, which says 503 until a warm-up was answered.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

from potstill import environment

environment.prepare()

import bentoml  # noqa: E402 - reads the telemetry settings when it is imported

# The class that `bentoml.service(service_class=...)` expects.
from _bentoml_sdk import Service  # type: ignore[import-untyped] # noqa: E402
from bentoml._internal.configuration.containers import BentoMLContainer  # noqa: E402
from bentoml.exceptions import BentoMLException  # noqa: E402

from potstill.serving.respawn import end_with_supervisor, name_supervisor, respawn_workers  # noqa: E402

end_with_supervisor()

from potstill.compute.processes import free_port  # noqa: E402
from potstill.errors import PotstillError  # noqa: E402
from potstill.inference.runtime import Student, Text  # noqa: E402
from potstill.inference.window_store import require_package  # noqa: E402
from potstill.serving.app import create_app, start  # noqa: E402
from potstill.serving.connections import bound_connections  # noqa: E402
from potstill.serving.front import Shortcut, front  # noqa: E402
from potstill.serving.keys import Keys  # noqa: E402
from potstill.serving.openapi import bento_routes  # noqa: E402
from potstill.serving.release import Release, load_release  # noqa: E402
from potstill.serving.telemetry import Metrics  # noqa: E402
from potstill.serving.tracing import send_last, tracing  # noqa: E402
from potstill.serving.watcher import watch_place  # noqa: E402

log = logging.getLogger("potstill.service")


def _load() -> tuple[Release, Keys, dict[str, Any]]:
    try:
        # BentoML makes the code folder of the Bento, or the folder that is built, the working folder.
        release = load_release(Path.cwd())
        # A place that cannot be is refused before there is a worker.
        require_package(watch_place(release.settings.watch) or "")
        return release, Keys.read(os.environ), tracing(os.environ)
    except PotstillError as error:
        # The kind of error that BentoML's command line prints without a traceback.
        raise BentoMLException(str(error)) from None


release, keys, traces = _load()
metrics = Metrics()
port = {"port": release.settings.serve.port} if release.settings.serve.port else {}
app = create_app(release, metrics)


class DescribedService(Service):  # type: ignore[misc]
    """A service whose mounted endpoints are in `/schema.json`, so that BentoML's own clients find them, and whose
    requests pass the front.
    """

    def schema(self) -> dict[str, Any]:
        """BentoML's description of the service."""
        return {**super().schema(), "routes": bento_routes(release)}

    def inject_config(self) -> None:
        """Configure BentoML for this service; port 0 is any free one, which BentoML's own form of a port excludes."""
        super().inject_config()
        if release.settings.serve.port == 0:
            BentoMLContainer.http.port.set(free_port())

    def to_asgi(self, is_main: bool = True) -> Any:
        """BentoML's application behind the front.

        Our endpoints are asked directly, without BentoML's middleware (metrics, traces, time-out, context), which takes
        more time than they do (benchmarks/RESULTS.md). With traces configured requests pass all of it.
        """
        bound_connections()
        whole = super().to_asgi(is_main)
        return front(whole if _traced() else Shortcut(app, whole), release, keys, metrics)


def _traced() -> bool:
    """Whether traces are on: by the variables of OpenTelemetry, or by BentoML's configuration, which goes first."""
    return BentoMLContainer.tracing.exporter_type.get() is not None


@bentoml.service(
    name=release.settings.name,
    service_class=DescribedService,
    workers=1,
    http={"host": release.settings.serve.host, **port},
    # The front counts and logs.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing=traces,
)
@bentoml.asgi_app(app)
class Classifier:
    """A distilled student that answers about texts."""

    def __init__(self) -> None:
        threading.Thread(target=_get_ready, name="get-ready", daemon=True).start()

    async def __is_ready__(self) -> bool:
        """BentoML asks this for `/readyz`."""
        return app.state.batcher is not None

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def end(self) -> None:
        """BentoML calls this after the last answer."""
        if _traced():
            send_last(BentoMLContainer.tracer_provider.get())

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def supervise() -> None:
        """BentoML calls this in the process that starts the worker, before it does."""
        name_supervisor()
        respawn_workers()


def _get_ready() -> None:
    """Load the model, warm it up, and let the application answer; where that fails the worker says why and ends."""
    try:
        student = Student(release.folder, release.settings.serve.threads)
        _warm_up(student)
        start(app, release, student)
    except Exception as error:
        log.critical("the model does not answer, so the service ends: %s", " ".join(str(error).split()))
        # Not by a signal: a worker that was killed is replaced.
        os._exit(error.exit_code if isinstance(error, PotstillError) else 1)


def _warm_up(student: Student) -> None:
    """Answer a short and a long text."""
    short, long = "ready", "ready " * student.card.max_length
    if student.card.kind == "question_answering":
        student.answer([(short, short), (short, long)])
    elif student.card.kind == "token_classification":
        student.tag([short, long])
    else:
        texts: list[Text] = [(short, short), (long, long)] if student.card.pair else [short, long]
        student.predict(texts)
