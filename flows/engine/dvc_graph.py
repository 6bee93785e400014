"""The DVC graph as the flow sees it: which stages there are, in what order, and which are current."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from potstill import environment
from potstill.artifacts import read_json, write_json
from potstill.config.params import Params
from potstill.errors import BusyError, ToolError
from tasks.identity import write_code_file


class Graph:
    """The stages of a workspace's dvc.yaml.

    DVC's files are parsed once, and all stages are compared in one pass; after a stage has run, call `forget`. Brings
    `code.yaml` up to date, so that DVC sees what was edited.

    Args:
        workspace: folder of dvc.yaml.
        params: what its params.yaml says.

    Attributes:
        order: every stage after those it depends on; in the order of dvc.yaml where the graph leaves a choice.

    Raises:
        ToolError: the folder is no workspace, or DVC cannot read it.
    """

    def __init__(self, workspace: Path, params: Params) -> None:
        environment.prepare()
        if not (workspace / "dvc.yaml").exists():
            raise ToolError(f"{workspace} is no workspace: it has no dvc.yaml; `potstill init DIR` makes one")
        self._workspace = workspace.resolve()
        with self._dvc_errors():
            from dvc.repo import Repo

            logging.getLogger("dvc").setLevel(logging.CRITICAL)
            self._repo: Any = Repo(str(workspace))
            self._stages: dict[str, Any] = {}
            self._read()
        write_code_file(workspace, params)
        self.order = self._order()
        # Those that differ from dvc.lock; None: to be compared.
        self._changed: set[str] | None = None

    @contextmanager
    def _dvc_errors(self) -> Iterator[None]:
        """Turn what DVC raises into the project's own errors."""
        from dvc.exceptions import DvcException
        from dvc.lock import LockError

        try:
            yield
        except LockError as error:
            held = _flat(error).partition(" If there are no processes")[0]
            raise BusyError(f"DVC is at work in this workspace: {held}; wait for it, then run again") from error
        except DvcException as error:
            raise ToolError(
                f"DVC cannot use {self._workspace}: {_flat(error)}; `potstill doctor` says what is missing"
            ) from error

    def _read(self) -> None:
        """Parse dvc.yaml and dvc.lock of the workspace; a repository may hold other graphs further down."""
        from dvc.repo.index import Index

        index = Index.from_file(self._repo, str(self._workspace / "dvc.yaml"))
        # The stage that always runs is for `dvc repro` alone: its file is written above.
        self._stages = {stage.name: stage for stage in index.stages if not stage.always_changed}
        self._dependencies = {
            name: [other.name for other in index.graph.successors(stage) if other.name in self._stages]
            for name, stage in self._stages.items()
        }

    def _order(self) -> list[str]:
        names = list(self._stages)
        ordered: list[str] = []
        sorter = TopologicalSorter(self._dependencies)
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
        return self._dependencies[name]

    def is_stale(self, name: str) -> bool:
        """Whether a stage's deps, params, command or outs differ from dvc.lock.

        Raises:
            BusyError: a DVC command is at work on the stage's files.
        """
        if self._changed is not None:
            return name in self._changed
        with self._dvc_errors():
            return bool(self._differing([name]))

    def stale(self) -> list[str]:
        """All stages that a run would look at: the stale ones and everything that depends on them, in order.

        Raises:
            BusyError: a DVC command is at work in the workspace.
        """
        if self._changed is None:
            with self._dvc_errors():
                self._changed = self._differing(self.order)
        stale: list[str] = []
        for name in self.order:
            if name in self._changed or set(self._dependencies[name]) & set(stale):
                stale.append(name)
        return stale

    def forget(self) -> None:
        """Parse and compare again at the next question: a stage has run, so dvc.lock and outs are others now."""
        self._changed = None
        self._stages = {}

    def _differing(self, names: list[str]) -> set[str]:
        from dvc.repo import lock_repo

        with lock_repo(self._repo):
            if not self._stages:
                self._read()
            return {name for name in names if self._stages[name].status()}


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
