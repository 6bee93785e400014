"""The DVC graph as the flow sees it: which stages there are, in what order, and which are current."""

from __future__ import annotations

import logging
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from potstill import environment
from potstill.artifacts import read_json, write_json
from potstill.errors import BusyError, ToolError


class Graph:
    """The stages of a workspace's dvc.yaml.

    Raises:
        ToolError: the folder is no workspace, or DVC cannot read it.
    """

    def __init__(self, workspace: Path) -> None:
        environment.prepare()
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        logging.getLogger("dvc").setLevel(logging.CRITICAL)
        if not (workspace / "dvc.yaml").exists():
            raise ToolError(f"{workspace} is no workspace: it has no dvc.yaml; `potstill init DIR` makes one")
        try:
            self._workspace = workspace.resolve()
            self._repo: Any = Repo(str(workspace))
            self.order = self._order()
        except DvcException as error:
            raise ToolError(
                f"DVC cannot use {workspace}: {_flat(error)}; `potstill doctor` says what is missing"
            ) from error

    def _order(self) -> list[str]:
        """Every stage after those it depends on; in the order of dvc.yaml where the graph leaves a choice."""
        root = str(self._workspace / "dvc.yaml")  # a repository may hold other graphs further down
        stages = [stage for stage in self._repo.index.stages if not stage.is_data_source and stage.path == root]
        names = [stage.addressing for stage in stages]
        ordered: list[str] = []
        sorter = TopologicalSorter({name: self.dependencies(name) for name in names})
        sorter.prepare()
        ready = set(sorter.get_ready())
        while ready:
            first = min(ready, key=names.index)
            ordered.append(first)
            sorter.done(first)
            ready = ready - {first} | set(sorter.get_ready())
        return ordered

    def dependencies(self, name: str) -> list[str]:
        """The stages whose outs this one uses, by DVC's own reading of dvc.yaml."""
        graph = self._repo.index.graph
        stage = next(stage for stage in graph if stage.addressing == name)
        return [other.addressing for other in graph.successors(stage) if other.path == stage.path]

    def is_stale(self, name: str) -> bool:
        """Whether a stage's deps, params, command or outs differ from dvc.lock.

        Raises:
            BusyError: a DVC command is at work on the stage's files.
        """
        from dvc.lock import LockError

        try:
            return bool(self._repo.status(targets=[name]))
        except LockError as error:
            held = _flat(error).partition(" If there are no processes")[0]
            raise BusyError(f"DVC is at work in this workspace: {held}; wait for it, then run again") from error

    def stale(self) -> list[str]:
        """All stages that a run would look at: the stale ones and everything behind them, in order."""
        found: list[str] = []
        for name in self.order:
            if set(self.dependencies(name)) & set(found) or self.is_stale(name):
                found.append(name)
        return found


def free_dead_locks(workspace: Path) -> None:
    """Take what dead processes hold out of DVC's table of readers and writers; call it with the run lock held.

    DVC does so itself for a process that is gone, but takes one for alive that was killed and whose parent has not yet
    asked how it ended: in a container without an init process that is for ever.
    """
    table = workspace / ".dvc" / "tmp" / "rwlock"
    if not table.exists():
        return
    held: dict[str, dict[str, Any]] = {"read": {}, "write": {}} | read_json(table)
    alive = {
        "read": {path: kept for path, all_ in held["read"].items() if (kept := [one for one in all_ if _lives(one)])},
        "write": {path: one for path, one in held["write"].items() if _lives(one)},
    }
    if alive != held:
        write_json(table, alive)


def _lives(holder: dict[str, Any]) -> bool:
    import psutil

    try:
        return bool(psutil.Process(int(holder["pid"])).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
