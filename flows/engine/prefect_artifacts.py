"""What Prefect's page of a run shows of its candidate: table, verdict, and links into MLflow's pages."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.engine.pipeline_run import Run
from flows.engine.prefect_server import wait_ready
from potstill.artifacts import read_json
from potstill.evaluation.pages.table import headers, note, rows
from potstill.paths import METRICS, REPORT
from potstill.registry import tracking
from potstill.registry.model_card import escape, markdown_table
from potstill.registry.store_calls import RUN
from potstill.registry.version_artifacts import EVIDENCE_FOLDER
from potstill.registry.versions import Version


def show_candidate(run: Run, verdict: str) -> None:
    """Show the candidate's table and the gate's sentence, and link the report among the artifacts of the MLflow run.

    Raises:
        ToolError: Prefect's API is away for longer than a run waits for MLflow's.
    """
    wait_ready(None, RUN.seconds)
    metrics = read_json(run.workspace / METRICS)
    titles = [escape(title.replace("-\n", "").replace("\n", " ")) for title in headers(metrics)]
    cells = [[escape(cell) for cell in row] for row in rows(metrics)]
    text = f"Gate: {escape(verdict, 1200)}.\n\n{markdown_table(titles, cells)}\n{escape(note(metrics) or '', 1200)}\n"
    create_markdown_artifact(text, key=_key(run, "candidate"), description="numbers and verdict")
    parent = run.recorder.parent_id
    if parent is not None:
        experiment = tracking.experiment_id(run.workspace, run.params.project.name)
        page = f"experiments/{experiment}/runs/{parent}/artifacts/{EVIDENCE_FOLDER}/{REPORT.name}"
        create_link_artifact(_mlflow_page(run, page), "report", key=_key(run, "report"), description=_description(run))


def show_version(run: Run, version: Version) -> None:
    """Link the registered version on MLflow's page.

    Raises:
        ToolError: as `show_candidate`.
    """
    wait_ready(None, RUN.seconds)
    project = run.params.project.name
    link = _mlflow_page(run, f"models/{project}/versions/{version.version}")
    text = f"version {version.version} of {project}"
    create_link_artifact(link, text, key=_key(run, "version"), description=_description(run))


def _key(run: Run, name: str) -> str:
    """Return the key under which Prefect keeps the history of an artifact, of all projects of a server."""
    return f"{run.params.project.name}-{name}"


def _mlflow_page(run: Run, page: str) -> str:
    """Return the address of a page of MLflow, without a user and password that the tracking URI may contain."""
    parts = urlsplit(tracking.tracking_uri(run.workspace))
    if parts.scheme not in ("http", "https"):
        return f"http://127.0.0.1:{run.params.servers.mlflow_port}/#/{page}"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], f"{parts.path.rstrip('/')}/", "", f"/{page}"))


def _description(run: Run) -> str:
    """Say what has to run for a link to lead somewhere."""
    local = not tracking.tracking_uri(run.workspace).startswith("http")
    return f"in {run.workspace / REPORT} too; `potstill up` starts MLflow's server" if local else ""
