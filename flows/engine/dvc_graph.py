"""The DVC graph as the flow sees it: the stages, their order, and which of them are stale."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yaml import YAMLError

from potstill import environment
from potstill.artifacts import read_json, write_json, write_text
from potstill.config.params import Params
from potstill.config.yaml_file import load_yaml, read_params
from potstill.errors import BusyError, ParamsError, ToolError
from potstill.paths import DVC_FILE, DVC_LOCK, KEPT_LOCK, PARAMS
from potstill.progress import say
from tasks.identity import sections_of, write_code_file


class Graph:
    """The stages of a workspace's dvc.yaml.

    DVC's files are parsed once, and all stages are compared in one pass. Call `forget` after a stage has run. The
    constructor brings `code.yaml` up to date, so that DVC sees edited code.

    Args:
        workspace: folder of dvc.yaml.
        params: its params.yaml.

    Attributes:
        order: every stage after those it depends on; in the order of dvc.yaml where the graph leaves a choice.
        uncached: the stages with an out that DVC's cache does not hold, and so no remote of DVC.

    Raises:
        ToolError: the folder is no workspace, or DVC cannot read it.
        ParamsError: params.yaml lacks a section that dvc.yaml names.
    """

    def __init__(self, workspace: Path, params: Params) -> None:
        environment.prepare()
        if not (workspace / DVC_FILE).exists():
            raise ToolError(f"{workspace} is no workspace: it has no dvc.yaml; `potstill init DIR` makes one")
        self._workspace = workspace.resolve()
        with dvc_errors(self._workspace):
            from dvc.lock import LockNoop
            from dvc.repo import Repo

            logging.getLogger("dvc").setLevel(logging.CRITICAL)
            self._repo: Any = Repo(str(workspace))
            if not os.access(self._repo.tmp_dir, os.W_OK):
                self._repo.lock = LockNoop()  # in a workspace that is read-only no other command can be at work either
            self._stages: dict[str, Any] = {}
            self._read()
        _check_sections(workspace)
        write_code_file(workspace, params)
        self.order = self._order()
        self.uncached = {name for name, stage in self._stages.items() if not all(out.use_cache for out in stage.outs)}
        # The stages that differ from dvc.lock; None until they are compared.
        self._changed: set[str] | None = None

    def _read(self) -> None:
        """Parse the workspace's own dvc.yaml and dvc.lock; subfolders of a repository may hold other graphs."""
        from dvc.repo.index import Index

        index = Index.from_file(self._repo, str(self._workspace / DVC_FILE))
        # The stage that always runs is for `dvc repro` without Potstill: the constructor writes its file.
        self._stages = {stage.name: stage for stage in index.stages if not stage.always_changed}
        self._dependencies = {
            name: [other.name for other in index.graph.successors(stage) if other.name in self._stages]
            for name, stage in self._stages.items()
        }

    def _order(self) -> list[str]:
        waiting = dict(self._dependencies)  # without a circle, which DVC refuses
        ordered: list[str] = []
        while waiting:
            first = next(name for name, needed in waiting.items() if set(needed) <= set(ordered))
            ordered.append(first)
            del waiting[first]
        return ordered

    def is_stale(self, name: str) -> bool:
        """Whether a stage's deps, params, command or outs differ from dvc.lock.

        Raises:
            BusyError: a DVC command is at work on the stage's files.
        """
        if self._changed is not None:
            return name in self._changed
        with dvc_errors(self._workspace):
            return bool(self._differing([name]))

    def stale(self) -> list[str]:
        """Return the stages that a run would visit, in order: the stale ones and everything that depends on them.

        Raises:
            BusyError: a DVC command is at work in the workspace.
        """
        if self._changed is None:
            with dvc_errors(self._workspace):
                self._changed = self._differing(self.order)
        stale: list[str] = []
        for name in self.order:
            if name in self._changed or set(self._dependencies[name]) & set(stale):
                stale.append(name)
        return stale

    def missing_outs(self) -> list[str]:
        """List the outs that dvc.lock names and DVC's cache lacks, whole or in part.

        Raises:
            BusyError: a DVC command is at work in the workspace.
        """
        from dvc.repo import lock_repo

        with dvc_errors(self._workspace), lock_repo(self._repo):
            locked = [out for name in self.order for out in self._cached_outs(name)]
            return [str(out) for out in locked if out.changed_cache()]

    def needed(self, names: Collection[str]) -> list[str]:
        """List the other stages whose outs these stages read."""
        read = {other for name in names for other in self._dependencies[name]} - {*names}
        return [name for name in self.order if name in read]

    def drop_damaged(self, name: str) -> list[str]:
        """Remove what DVC's cache holds altered of a stage's outs, and return the paths.

        DVC itself trusts the write-protected files of its cache, and would copy an altered one again and again.

        Raises:
            BusyError: a DVC command is at work in the workspace.
        """
        from dvc.repo import lock_repo

        with dvc_errors(self._workspace), lock_repo(self._repo):
            if not self._stages:
                self._read()
            damaged = [path for out in self._cached_outs(name) for path in _damaged_objects(out)]
        for path in damaged:
            path.unlink()
        return [str(path) for path in damaged]

    def forget(self) -> None:
        """Parse and compare again at the next question, since a stage has changed dvc.lock and outs."""
        self._changed = None
        self._stages = {}

    def _differing(self, names: list[str]) -> set[str]:
        from dvc.repo import lock_repo

        with lock_repo(self._repo):
            if not self._stages:
                self._read()
            for name in names:
                self._drop_damaged_lists(name)
            return {name for name in names if self._stages[name].status()}

    def _drop_damaged_lists(self, name: str) -> None:
        """Remove what DVC's cache holds altered of the lists of a stage's files, which DVC reads to compare them.

        It takes a list that is no JSON for one that is missing, and fails on others without a sentence.
        """
        for out in self._cached_outs(name):
            path = _object_path(out, out.hash_info.value)
            if out.hash_info.isdir and _is_altered(path, out):
                path.unlink()
                say(f"{name}: {path} of DVC's cache is altered; it was removed")

    def _cached_outs(self, name: str) -> list[Any]:
        return [out for out in self._stages[name].outs if out.use_cache and out.hash_info]


@contextmanager
def dvc_errors(workspace: Path) -> Iterator[None]:
    """Turn DVC's exceptions into the project's own errors."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        yield
    except LockError as error:
        reason = _one_line(error).partition(" If there are no processes")[0]
        raise BusyError(f"DVC is at work in this workspace: {reason}; wait for it, then run again") from error
    except DvcException as error:
        raise ToolError(
            f"DVC cannot use {workspace}: {_one_line(error)}; `potstill doctor` says what is missing"
        ) from error


def _damaged_objects(out: Any) -> list[Path]:
    """List the files of DVC's cache that belong to an out and whose bytes are not those of their names."""
    names = [out.hash_info.value, *(info.value for _, _, info in out.get_obj() or ())]
    return [path for name in names if _is_altered(path := _object_path(out, name), out)]


def _object_path(out: Any, name: str) -> Path:
    return Path(out.cache.oid_to_path(name))


def _is_altered(path: Path, out: Any) -> bool:
    """Whether a file of DVC's cache exists and its sum is not the one that its folder and its name have."""
    from dvc_data.hashfile.hash import file_md5

    name = path.parent.name + path.name
    return path.exists() and bool(file_md5(str(path), out.cache.fs) != name.removesuffix(".dir"))


def _check_sections(workspace: Path) -> None:
    """Refuse params.yaml without a section that a stage receives: DVC would, when it comes to that stage.

    Potstill itself knows the defaults of such a section, so a file of an older version may lack one.
    """
    stages = load_yaml((workspace / DVC_FILE).read_text(encoding="utf-8"))["stages"].values()
    missing = {name for stage in stages for name in sections_of(stage)} - read_params(workspace / PARAMS).keys()
    if missing:
        names = ", ".join(sorted(missing))
        lines = ", ".join(f"`{name}: {{}}`" for name in sorted(missing))
        raise ParamsError(f"{workspace / PARAMS} lacks {names}, which dvc.yaml names; add {lines} to take the defaults")


def free_dead_locks(workspace: Path) -> None:
    """Remove the locks of dead processes from DVC's table of readers and writers; call it with the run lock held.

    DVC does so itself for a process that is gone, but a zombie counts as alive to it: a process that was killed and
    whose parent has not yet read its exit status. In a container without an init process it stays one for ever. Nor
    does DVC go on with a table that it was writing when it was killed, which is removed here.
    """
    table = workspace / ".dvc" / "tmp" / "rwlock"
    if not table.exists():
        return
    try:
        locks: dict[str, dict[str, Any]] = {"read": {}, "write": {}} | read_json(table)
    except ValueError:  # DVC writes it in place, and was killed meanwhile
        table.unlink()
        return
    readers = {path: [holder for holder in holders if _is_alive(holder)] for path, holders in locks["read"].items()}
    live_locks = {
        "read": {path: holders for path, holders in readers.items() if holders},
        "write": {path: holder for path, holder in locks["write"].items() if _is_alive(holder)},
    }
    if live_locks != locks:
        write_json(table, live_locks)


@contextmanager
def kept_lock_file(workspace: Path, stage: str) -> Iterator[None]:
    """Keep a copy of dvc.lock while DVC runs a stage; what it was writing when it was killed is cut off."""
    lock = workspace / DVC_LOCK
    text = lock.read_text(encoding="utf-8") if lock.exists() else ""
    write_json(workspace / KEPT_LOCK, {"stage": stage, "text": text})
    try:
        yield
    finally:
        restore_lock_file(workspace)


def restore_lock_file(workspace: Path) -> None:
    """Put the kept dvc.lock back if DVC was killed while it wrote it; call it with the run lock held."""
    lock = workspace / DVC_LOCK
    copy = workspace / KEPT_LOCK
    if not copy.exists():
        return
    before = read_json(copy)
    if lock.exists() and not _is_whole_lock(lock.read_text(encoding="utf-8", errors="replace"), **before):
        if before["text"]:
            write_text(lock, before["text"])
        else:
            lock.unlink()
    copy.unlink()


def _is_whole_lock(lock: str, stage: str, text: str) -> bool:
    """Whether a dvc.lock has its end, as DVC reads it, and all stages but the one that ran as in the text before."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        stages = COMPILED_LOCKFILE_SCHEMA(load_yaml(lock)).get("stages", {})
    except (YAMLError, Invalid):
        return False
    earlier = load_yaml(text)["stages"] if text else {}
    return lock.endswith("\n") and all(stages.get(name) == earlier[name] for name in earlier if name != stage)


def _is_alive(holder: dict[str, Any]) -> bool:
    import psutil

    try:
        return bool(psutil.Process(int(holder["pid"])).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
