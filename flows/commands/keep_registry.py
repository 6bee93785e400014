"""The commands that look after a workspace's registry as a whole."""

from __future__ import annotations

import sys
from pathlib import Path

from potstill.compute.processes import hold
from potstill.paths import RUN_LOCK
from potstill.registry import artifact_locations, registry_backup
from potstill.registry.registry_backup import Contents
from potstill.registry.tracking import store_file


def relocate(workspace: Path) -> str:
    """Correct MLflow's names of artifacts after the workspace was moved; returns the sentence to print.

    Raises:
        BusyError: a run holds the workspace.
        StoreError: MLflow's store cannot be read or written.
    """
    if store_file(workspace) is None:
        return "nothing to correct: the registry is not in this workspace but at the server that is configured"
    with hold(workspace / RUN_LOCK, what="a run"):
        moved = artifact_locations.relocate(workspace)
    if not moved:
        return "nothing to correct: MLflow names the artifacts where they are"
    return f"MLflow names the artifacts in {workspace.resolve()} now, no longer in {', '.join(map(str, moved))}"


def back_up(workspace: Path, target: Path) -> str:
    """Write the registry to an archive; returns the sentence to print. Damaged versions are named on standard error."""
    contents, problems = registry_backup.back_up(workspace, target)
    for problem in problems:
        print(f"potstill: {problem}", file=sys.stderr)
    megabytes = target.stat().st_size / 1e6
    return f"{target} ({megabytes:.1f} MB) holds {_describe(contents)}; data is not in it: `dvc push` keeps that"


def restore(workspace: Path, archive: Path) -> str:
    """Restore the registry from an archive; returns the sentence to print."""
    contents, unlike_backup = registry_backup.restore(archive, workspace)
    files = " and ".join(map(str, unlike_backup))
    stayed = f"; {files} stayed as here, unlike in the backup" if files else ""
    return f"{archive} is restored: {_describe(contents)}{stayed}"


def _describe(contents: Contents) -> str:
    versions = f"{contents.versions} version{'s' * (contents.versions != 1)}"
    champion = f"champion {contents.champion or 'none'}"
    return f"the registry of {contents.project}: {versions}, {champion}, {contents.lines} lines of the ledger"
