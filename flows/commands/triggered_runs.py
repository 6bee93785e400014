"""The flows of prefect.yaml besides the scheduled one: a run with other params, and runs that wait for a reason.

All bear the name `potstill`, so that their deployments stand together on Prefect's page.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.commands.judge_answers import drift
from flows.commands.run_workspace import change_params_locked
from flows.engine.pipeline_run import open_run
from flows.engine.prefect_flow import potstill
from flows.engine.prefect_states import log_sentences, state_of
from potstill.errors import DriftError, PotstillError

Outcome = State[PotstillError | None]


@flow(name="potstill", persist_result=False)
def run_with_settings(settings: list[str] | None = None, workspace: str | None = None) -> Outcome:
    """Change params.yaml, and run a workspace once.

    Args:
        settings: values to change, as `potstill run --set` takes them: distill.temperature=4
        workspace: folder of dvc.yaml and params.yaml; by default that of the worker.
    """
    return _run_unless(workspace, lambda: change_params_locked(Path.cwd(), None, settings or []))


@flow(name="potstill", persist_result=False)
def run_on_new_data(workspace: str | None = None) -> Outcome:
    """Run a workspace if the sources of its data are not those that were ingested last.

    Args:
        workspace: folder of dvc.yaml and params.yaml; by default that of the worker.
    """
    return _run_unless(workspace, _no_new_data)


@flow(name="potstill", persist_result=False)
def run_on_drift(workspace: str | None = None) -> Outcome:
    """Run a workspace if what its champion's service reads has drifted from the test texts.

    Args:
        workspace: folder of dvc.yaml and params.yaml; by default that of the worker.
    """
    return _run_unless(workspace, _no_drift)


def _no_new_data() -> str | None:
    """Say that no source has changed; None if one has."""
    with open_run(Path.cwd()) as run:
        changed = run.graph.is_stale(run.graph.order[0])  # the stage that reads the sources
    return None if changed else "the sources of the data are those that were ingested last"


def _no_drift() -> str | None:
    """Say that nothing has drifted; None if something has."""
    try:
        drift(Path.cwd(), None, retrain=False)
    except DriftError:
        return None
    return "what the service reads has not drifted"


def _run_unless(workspace: str | None, reason_not_to: Callable[[], str | None]) -> Outcome:
    """Run a workspace, unless a function that is called in it first says why there is no need to."""
    log_sentences()
    if workspace is not None:
        os.chdir(workspace)
    try:
        reason = reason_not_to()
    except PotstillError as error:
        return state_of(error)
    return potstill.fn() if reason is None else Completed(name="NothingNew", message=reason)
