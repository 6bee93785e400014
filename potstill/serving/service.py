"""The BentoML service, the entry point of `bentoml build`, `bentoml serve` and `bentoml containerize`.

All files are verified during the import of this module, in the started process as well as in its worker. An altered
Bento therefore exits with one sentence instead of restarting its worker for ever. The worker loads its model in a
thread, and the server answers 503 until the warm-up has finished.
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
from potstill.serving.keys import Keys  # noqa: E402
from potstill.serving.middleware import add_middleware, bypass_bento  # noqa: E402
from potstill.serving.openapi import bento_routes  # noqa: E402
from potstill.serving.release import Release, load_release  # noqa: E402
from potstill.serving.telemetry import Metrics  # noqa: E402
from potstill.serving.tracing import send_last, tracing  # noqa: E402
from potstill.serving.watcher import watch_location  # noqa: E402

log = logging.getLogger("potstill.service")


def _load() -> tuple[Release, Keys, dict[str, Any]]:
    try:
        # BentoML sets the working folder to the code folder of the Bento, or to the folder that it builds.
        release = load_release(Path.cwd())
        # An invalid location is refused before a worker starts.
        require_package(watch_location(release.settings.watch) or "")
        return release, Keys.read(os.environ), tracing(os.environ)
    except PotstillError as error:
        # BentoML's command line prints this exception without a traceback.
        raise BentoMLException(str(error)) from None


release, keys, traces = _load()
metrics = Metrics()
port = {"port": release.settings.serve.port} if release.settings.serve.port else {}
app = create_app(release, metrics)


class DescribedService(Service):  # type: ignore[misc]
    """A service with middleware, whose mounted endpoints are in `/schema.json` for BentoML's clients."""

    def schema(self) -> dict[str, Any]:
        """Return BentoML's description of the service with the mounted endpoints."""
        return {**super().schema(), "routes": bento_routes(release)}

    def inject_config(self) -> None:
        """Configure BentoML for this service; port 0 takes a free port, which BentoML does not support."""
        super().inject_config()
        if release.settings.serve.port == 0:
            BentoMLContainer.http.port.set(free_port())

    def to_asgi(self, is_main: bool = True) -> Any:
        """Return the application with Potstill's middleware.

        Requests skip BentoML's middleware (metrics, traces, time-out, context), which takes more time than the
        endpoints do (benchmarks/RESULTS.md). If traces are configured, they pass through it.
        """
        bound_connections()
        bento = super().to_asgi(is_main)
        return add_middleware(bento if _is_traced() else bypass_bento(app, bento), release, keys, metrics)


def _is_traced() -> bool:
    """Whether OpenTelemetry's variables or BentoML's configuration, which has priority, switch traces on."""
    return BentoMLContainer.tracing.exporter_type.get() is not None


@bentoml.service(
    name=release.settings.name,
    service_class=DescribedService,
    workers=1,
    http={"host": release.settings.serve.host, **port},
    # Potstill's middleware counts and logs.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing=traces,
)
@bentoml.asgi_app(app)
class Classifier:
    """A distilled student."""

    def __init__(self) -> None:
        threading.Thread(target=_load_model, name="load-model", daemon=True).start()

    async def __is_ready__(self) -> bool:
        """Whether requests are answered; BentoML calls this for `/readyz`."""
        return app.state.batcher is not None

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def end(self) -> None:
        """Send the last traces; BentoML calls this after the last response."""
        if _is_traced():
            send_last(BentoMLContainer.tracer_provider.get())

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def supervise() -> None:
        """Prepare the supervision of the worker; BentoML calls this in the process that starts it."""
        name_supervisor()
        respawn_workers()


def _load_model() -> None:
    """Load the model, warm it up, and start answering; a failure is logged and ends the worker."""
    try:
        student = Student(release.folder, release.settings.serve.threads)
        _warm_up(student)
        start(app, release, student)
    except Exception as error:
        log.critical("the model does not answer, so the service ends: %s", " ".join(str(error).split()))
        # Exit without a signal, because a worker that was killed is replaced.
        os._exit(error.exit_code if isinstance(error, PotstillError) else 1)


def _warm_up(student: Student) -> None:
    """Answer a short and a long text."""
    short = "ready"
    long = "ready " * student.card.max_length
    if student.card.form == "span":
        student.answer([(short, short), (short, long)])
    elif student.card.form == "entities":
        student.tag([short, long])
    else:
        texts: list[Text] = [(short, short), (long, long)] if student.card.pair else [short, long]
        student.predict(texts)
