"""What no kept version of a workspace needs any more: versions, Bentos, checkpoints, copies and watch windows.

DVC's cache is left to `flows.engine.dvc_cache`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from potstill.config.params import Params
from potstill.inference.window_store import candidate_location, file_system, workspace_location
from potstill.paths import CHECKPOINTS, FETCHED_MODELS
from potstill.registry.artifact_locations import local_folder
from potstill.registry.promotion import Registry
from potstill.registry.retention import Retention
from potstill.registry.tracking import is_running, logged_models
from potstill.registry.version_artifacts import delete_model
from potstill.serving.launch import bento_path

_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Garbage:
    """Things of one kind that may go.

    Attributes:
        what: their kind.
        names: each of them.
        size: bytes on this machine that their removal frees.
        remove: removes them.
    """

    what: str
    names: list[str]
    size: int
    remove: Callable[[], object]


def find_garbage(params: Params, registry: Registry, retention: Retention, days: float) -> Iterator[Garbage]:
    """Yield what may go, in an order in which a kill leaves nothing that the next call does not see.

    Args:
        params: the whole of params.yaml.
        registry: the project's.
        retention: its versions, divided.
        days: age in days from which checkpoints and unfinished uploads go.

    Raises:
        ToolError: `watch.folder` cannot be opened.
    """
    yield _windows(params, registry, retention)
    yield _copies(registry, retention)
    yield _bentos(retention)
    yield _versions(registry, retention)
    yield _uploads(registry, days)
    yield _checkpoints(registry.workspace, days)


def folder_bytes(folders: Collection[Path]) -> int:
    """Add up the sizes of all files below some folders, or of files; what is removed meanwhile counts nothing."""
    below = (Path(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names)
    return sum(_file_bytes(path) for path in (*folders, *below))


def _file_bytes(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def _versions(registry: Registry, retention: Retention) -> Garbage:
    existing = {version.version: version for version in registry.versions()}
    sources = [existing[number].source for number in retention.removable if number in existing]
    folders = [folder for source in sources if (folder := local_folder(source, registry.workspace)) is not None]
    names = [number if number in existing else f"{number} (gone by hand)" for number in retention.removable]
    return Garbage(
        "versions in MLflow", names, folder_bytes(folders), lambda: registry.remove(retention.removable, "potstill gc")
    )


def _uploads(registry: Registry, days: float) -> Garbage:
    """Find the models that were uploaded so long ago and became no version, since the run was killed in between."""
    workspace = registry.workspace
    sources = " ".join(version.source for version in registry.versions())
    old = [model for model in logged_models(workspace, registry.name) if model.creation_timestamp < 1000 * _limit(days)]
    models = [
        model
        for model in old
        if model.model_id not in sources and not (model.source_run_id and is_running(workspace, model.source_run_id))
    ]
    folders = [folder for model in models if (folder := local_folder(model.artifact_location, workspace)) is not None]

    def remove() -> None:
        for model in models:
            delete_model(workspace, model.model_id)

    return Garbage("uploads without a version", [model.model_id for model in models], folder_bytes(folders), remove)


def _bentos(retention: Retention) -> Garbage:
    folders = [path for tag in sorted(retention.bentos) if (path := bento_path(tag)).is_dir()]
    return _folders("Bentos in BentoML's store", folders)


def _copies(registry: Registry, retention: Retention) -> Garbage:
    """Find the copies of models and evidence that `Registry.fetch` left."""
    parent = registry.workspace / FETCHED_MODELS
    folders = [path for number in retention.removable for path in sorted(parent.glob(f"{registry.name}-{number}-*"))]
    return _folders("copies from the registry", folders)


def _checkpoints(workspace: Path, days: float) -> Garbage:
    """Find the checkpoints of stages that were interrupted and not resumed for so long."""
    limit = _limit(days)
    folders = [path for path in sorted((workspace / CHECKPOINTS).glob("*")) if _newest_change(path) < limit]
    return _folders("checkpoints", folders)


def _limit(days: float) -> float:
    """Return the time, in seconds since the epoch, that is so many days ago."""
    return time.time() - days * _DAY_SECONDS


def _newest_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def _folders(what: str, folders: list[Path]) -> Garbage:
    def remove() -> None:
        for folder in folders:
            while folder.exists():
                with suppress(FileNotFoundError):  # another clone's command removes it at the same time
                    shutil.rmtree(folder)

    return Garbage(what, [folder.name for folder in folders], folder_bytes(folders), remove)


def _windows(params: Params, registry: Registry, retention: Retention) -> Garbage:
    """Find the windows of candidates that no kept version is."""
    location = workspace_location(params.watch.folder, registry.workspace)
    registered = registry.history().registered
    candidates = {registered[number]["candidate"] for number in retention.removable}
    candidates -= {registered[number]["candidate"] for number in retention.kept if number in registered}
    locations = [candidate_location(location, candidate) for candidate in sorted(candidates)] if location else []
    present = [(files, root) for files, root in map(file_system, locations) if files.exists(root)]

    def remove() -> None:
        for files, root in present:
            with suppress(FileNotFoundError):  # as above
                files.rm(root, recursive=True)

    names = [root.rsplit("/", 1)[-1] for _, root in present]
    return Garbage("watch windows", names, sum(files.du(root) for files, root in present), remove)
