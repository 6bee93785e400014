"""The commands that look after a workspace's registry as a whole."""

from __future__ import annotations

from pathlib import Path

from potstill.compute.processes import hold
from potstill.paths import RUN_LOCK
from potstill.registry import artifact_locations
from potstill.registry.tracking import store_file


def relocate(workspace: Path) -> str:
    """Correct MLflow's names of artifacts after the workspace was moved; returns the sentence to print.

    Raises:
        BusyError: a run holds the workspace.
        StoreError: MLflow's store cannot be read or written.
    """
    if store_file(workspace) is None:
        return "nothing to correct: the registry is not in this workspace but where MLFLOW_TRACKING_URI names it"
    with hold(workspace / RUN_LOCK, what="a run"):
        moved = artifact_locations.relocate(workspace)
    if not moved:
        return "nothing to correct: MLflow names the artifacts where they are"
    return f"MLflow names the artifacts in {workspace.resolve()} now, no longer in {', '.join(map(str, moved))}"
