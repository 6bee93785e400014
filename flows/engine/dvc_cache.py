"""The objects of DVC's cache that neither the workspace, nor a commit, nor a kept version of the model needs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.engine.dvc_graph import dvc_errors
from potstill.artifacts import write_text
from potstill.config.yaml_file import as_yaml, load_yaml
from potstill.paths import DVC_FILE, DVC_LOCK
from potstill.registry.scratch_folders import scratch_folder

# DVC says here which objects it would remove; it has no other answer.
_LOGGER = logging.getLogger("dvc_data.hashfile.gc")


def unused_objects(workspace: Path, locks: Iterable[Path]) -> list[Path]:
    """List the files that `remove_unused` removes; none where the cache is not in the workspace, as others use it then.

    Args:
        workspace: the workspace.
        locks: the dvc.lock of each kept version.

    Raises:
        BusyError: a DVC command is at work in the workspace.
        ToolError: DVC cannot read it.
    """
    paths: list[Path] = []

    def listen(record: logging.LogRecord) -> bool:
        paths.extend(Path(str(path)) for path in record.args or ())
        return False  # so that nobody prints it

    level = _LOGGER.level
    _LOGGER.addFilter(listen)
    _LOGGER.setLevel(logging.INFO)
    try:
        _collect(workspace, locks, dry=True)
    finally:
        _LOGGER.setLevel(level)
        _LOGGER.removeFilter(listen)
    return paths


def remove_unused(workspace: Path, locks: Iterable[Path]) -> None:
    """Remove what `unused_objects` lists, by `dvc gc`; see there for arguments and errors."""
    _collect(workspace, locks, dry=False)


def _collect(workspace: Path, locks: Iterable[Path], *, dry: bool) -> None:
    with dvc_errors(workspace), scratch_folder(workspace) as scratch:
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.CRITICAL)
        repo: Any = Repo(str(workspace))
        cache = Path(repo.cache.local.path)
        if not cache.is_relative_to(workspace.resolve()):
            return
        projects = [_write_project(scratch / str(number), lock, cache) for number, lock in enumerate(locks)]
        # With `force`, DVC does not ask about folders that are not in the cache.
        repo.gc(workspace=True, all_commits=True, repos=projects, force=True, dry=dry)


def _write_project(folder: Path, lock: Path, cache: Path) -> str:
    """Write a project with the outs of a dvc.lock, for `dvc gc --projects`."""
    from dvc.config import Config

    text = lock.read_text(encoding="utf-8")
    stages = load_yaml(text).get("stages", {})
    outs = {
        name: {"cmd": "true", "outs": [out["path"] for out in stage.get("outs", [])]} for name, stage in stages.items()
    }
    write_text(folder / DVC_LOCK, text)
    write_text(folder / DVC_FILE, as_yaml({"stages": outs}))
    (folder / ".dvc").mkdir()
    with Config(str(folder / ".dvc")).edit("repo") as config:  # which quotes a path with `#` or a comma
        config["core"] = {"no_scm": True}
        config["cache"] = {"dir": str(cache.parent.parent)}
    return str(folder)
