"""One run of a workspace: the work of the Prefect tasks in `prefect_flow`. Imports no Prefect."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flows.engine.dvc_graph import Graph, free_dead_locks, kept_lock_file, restore_lock_file
from flows.engine.flow_errors import StageError
from flows.engine.mlflow_recorder import Recorder
from flows.engine.notifications import tell_outcome
from potstill import environment
from potstill.artifacts import canonical_json, is_whole, read_json, write_json
from potstill.compute.processes import hold
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.config.server_urls import use_servers
from potstill.errors import ApprovalPendingError, GateRefusedError, PotstillError, TimeLimitError
from potstill.paths import FAILURE, METRICS, PARAMS, RUN_LOCK, SOURCES, TIMINGS
from potstill.progress import say
from potstill.registry import tracking
from potstill.registry.artifact_locations import relocate
from potstill.registry.scratch_folders import clean_scratch
from potstill.registry.steps import VetoedError
from potstill.registry.store_calls import RUN, patience
from tasks.stage import INSIDE_RUN, folder_sum, load_stage

if TYPE_CHECKING:
    from flows.engine.stage_process import Child, Limit
    from potstill.registry.promotion import Registry
    from potstill.registry.versions import Version

Answer = TypeVar("Answer")
CURRENT = "current"


@dataclass
class Times:
    """Seconds that one step took, and how many of them were training or inference."""

    wall: float
    work: float = 0.0


@dataclass
class Run:
    """A workspace that is held for one run."""

    workspace: Path
    params: Params
    graph: Graph
    recorder: Recorder
    times: dict[str, Times] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    # Whether this run has registered a version. Its evidence was logged then.
    registered: bool = False
    begin: float = field(default_factory=time.monotonic)
    # In which the steps that are no DVC stages run: all of them need MLflow, which takes seconds to import.
    _child: Child | None = None

    # --- stages ---

    def stage(self, name: str) -> str:
        """Bring one DVC stage up to date in a child process; a current stage starts none.

        Returns:
            `current`, or what `execute` returns.

        Raises:
            PotstillError: as `check_early` and `execute`.
        """
        if not self.graph.is_stale(name):
            say(f"{name}: {CURRENT}")
            return CURRENT
        self.check_early(name)
        return self.execute(name)

    def check_early(self, name: str) -> None:
        """Check what can be checked before a stage; see `tasks.early`."""
        from tasks.early import check_early

        check_early(self.params, self.workspace, self.graph.order[: self.graph.order.index(name)])

    def execute(self, name: str) -> str:
        """Have DVC run a stage in a child process, or take its outs from the cache.

        Returns:
            `run` or `taken from the cache`.

        Raises:
            StageError: the stage failed with a sentence of its own.
            PotstillError: DVC could not run it, or it ran past its limit.
        """
        from flows.engine.stage_process import reproduce

        failure = self.workspace / FAILURE
        failure.unlink(missing_ok=True)
        timing = self.workspace / TIMINGS / f"{name}.json"
        timing.unlink(missing_ok=True)
        variables = {INSIDE_RUN: str(os.getpid()), **self.recorder.environment}
        start = time.monotonic()
        try:
            with kept_lock_file(self.workspace, name):
                reproduce(name, self.workspace, variables, self.limit(name))
        except TimeLimitError:
            raise  # the sentence in FAILURE says "interrupted", since the limit interrupted the stage
        except PotstillError:
            if failure.exists():
                stage_failure = read_json(failure)
                if stage_failure["stage"] == name:
                    raise StageError(stage_failure["message"], stage_failure["exit_code"]) from None
            raise
        finally:
            work = sum(read_json(timing)["work"].values()) if timing.exists() else 0.0
            self.times[name] = Times(time.monotonic() - start, work)
            self.graph.forget()
            self.recorder.collect()
        if timing.exists():
            return "run"
        if self._discard_damaged(name):
            return self.execute(name)
        return "taken from the cache"

    def _discard_damaged(self, name: str) -> bool:
        """Discard the outs of a stage that DVC has taken from its cache altered, there too; whether it had to."""
        outs = [path for path in load_stage(name, self.params).outs.values() if path.is_dir()]
        damaged = [] if is_whole(*outs) else self.graph.drop_damaged(name)
        for path in damaged:
            say(f"{name}: {path} of DVC's cache is altered; it was removed, and the stage runs again")
        for out in outs if damaged else []:
            shutil.rmtree(out)
        return bool(damaged)

    def limit(self, name: str) -> Limit:
        """How long a stage or step may go on: its own limit, or less where little is left of the run's."""
        from flows.engine.stage_process import Limit

        schedule = self.params.schedule
        if name in self.graph.order:
            part = Limit(f"stage {name}", "schedule.stage_minutes", schedule.stage_minutes)
        else:
            part = Limit(f"step {name}", "schedule.step_minutes", schedule.step_minutes)
        whole = self.whole_limit(part.subject)
        return part if whole is None else min(part, whole, key=lambda limit: limit.seconds)

    def whole_limit(self, subject: str) -> Limit | None:
        """How long the whole run may go on, as a sentence about a part of it says; None: without a limit."""
        from flows.engine.stage_process import Limit

        minutes = self.params.schedule.run_minutes
        if minutes is None:
            return None
        return Limit(f"the run, at {subject},", "schedule.run_minutes", minutes, self.past_minutes)

    @property
    def past_minutes(self) -> float:
        """Minutes since the run began."""
        return (time.monotonic() - self.begin) / 60

    def is_current(self) -> bool:
        """Whether a run would change nothing: each stage is current, and this candidate is the champion already."""
        if self.graph.stale():
            return False
        registry = self.registry()
        for sentence in registry.reconcile():
            say(sentence)
        champion = registry.champion()
        held_back = self.held_back()
        if held_back is not None:
            say(held_back)
            return True
        return champion is not None and self.settled(champion) == champion

    def outs(self) -> dict[str, str]:
        """Return stage -> hash of its outs, by which MLflow finds the run that made them."""
        sums = {}
        for name in self.graph.order:
            folders = {key: path for key, path in load_stage(name, self.params).outs.items() if path.is_dir()}
            sums[name] = tracking.outs_sum({key: folder_sum(path) for key, path in folders.items()})
        return sums

    # --- candidate ---

    def step(self, name: str, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Call what a step that is no DVC stage does in a child process; the recorder has written all before.

        Raises:
            TimeLimitError: it ran past its limit.
            PotstillError: what the function raises.
        """
        self.recorder.wait()
        return self.transfer(name, function, *arguments)

    def transfer(self, name: str, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Do as `step` for what only moves data: it needs no MLflow, and so does not fail with it.

        Raises:
            TimeLimitError, PotstillError: as `step`.
        """
        from flows.engine.stage_process import Child

        if self._child is None or not self._child.is_alive():
            self._child = Child(self.workspace)
        return self._child.call(function, *arguments, limit=self.limit(name))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a step that is no DVC stage, or a part of one."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.times.setdefault(name, Times(0.0)).wall += time.monotonic() - start

    def registry(self) -> Registry:
        """Return the project's registry, once the recorder's thread is idle: the first use creates the store."""
        from potstill.registry.promotion import Registry

        self.recorder.wait()
        return Registry(self.workspace, self.params.project.name)

    def settled(self, champion: Version | None) -> Version | None:
        """Return the version that this candidate is settled as; see `tasks.register.settled`."""
        from tasks.register import settled

        return settled(self.params, self.workspace, champion)

    def champion_sentence(self) -> str:
        """Say which version is the champion."""
        champion = self.registry().champion()
        name = self.params.project.name
        return f"version {champion.version} of {name} is the champion" if champion else f"{name} has no champion"

    def held_back(self) -> str | None:
        """Say why a candidate that passed is not promoted: a person took it back. None otherwise."""
        from tasks.register import held_back

        return held_back(self.params, self.workspace)

    def close(self, status: str) -> None:
        """End the pipeline's MLflow run with its evidence, if anything was done.

        A run that has registered a version has fulfilled its purpose and is FINISHED, however it ends.
        """
        from tasks.register import log_evidence

        if self._child is not None:
            self._child.close()
        metrics = {tracking.metric_name(f"seconds.{name}"): times.wall for name, times in self.times.items()}
        parent = self.recorder.parent_id
        if parent is not None:
            if self.registered:
                status = "FINISHED"
            elif status == "FINISHED" and (self.workspace / METRICS).exists():
                self.recorder.wait()
                log_evidence(self.workspace, parent)
        self.recorder.close(status, metrics, self.outs() if parent is not None else {}, self.facts)


_open: Run | None = None


@contextmanager
def open_run(workspace: Path) -> Iterator[Run]:
    """Hold a workspace for one run, and tell how it ended. Where this process has a run open already, yield that one.

    Raises:
        ParamsError: params.yaml is not valid.
        BusyError: another run holds the workspace.
        ToolError: the folder is no workspace.
    """
    if _open is not None:
        yield _open
        return
    with tell_outcome(workspace), _hold_workspace(workspace) as run:
        yield run


@contextmanager
def open_part(workspace: Path, parent: str, past_minutes: float) -> Iterator[Run]:
    """Hold a clone for a part of a run that goes on elsewhere, which also tells how it ended.

    Args:
        workspace: the clone.
        parent: the MLflow run of that run.
        past_minutes: minutes since that run began.

    Raises:
        PotstillError: as `open_run`.
    """
    with _hold_workspace(workspace, parent) as run:
        run.begin -= 60 * past_minutes
        yield run


@contextmanager
def _hold_workspace(workspace: Path, parent: str | None = None) -> Iterator[Run]:
    global _open
    params = load_params(workspace / PARAMS)
    use_servers(workspace)  # params may have changed; a worker of Prefect comes here without the command line
    environment.prepare()
    with hold(workspace / RUN_LOCK, what="a run"), patience(RUN):
        if parent is None:  # the sources need not be on a machine that runs a part
            _write_sources(workspace, params)
        free_dead_locks(workspace)
        restore_lock_file(workspace)
        clean_scratch(workspace)
        for folder in relocate(workspace):
            say(f"the workspace was moved here from {folder}; MLflow's names of its artifacts were corrected")
        recorder = Recorder(workspace, params.project.name, _flat(params), parent)
        run = _open = Run(workspace, params, Graph(workspace, params), recorder)
        status = "KILLED"
        try:
            recorder.catch_up()
            yield run
            status = "FINISHED"
        except (GateRefusedError, ApprovalPendingError, VetoedError):
            status = "FINISHED"
            raise
        except Exception:
            status = "FAILED"
            raise
        finally:
            _open = None
            run.close(status)


def _write_sources(workspace: Path, params: Params) -> None:
    """Write the fingerprints of the local sources, which lie outside the workspace, for DVC to compare."""
    from potstill.data.fetching.ingestion import local_fingerprint

    sums = local_fingerprint(params.ingest)
    path = workspace / SOURCES
    if not path.exists() or path.read_text(encoding="utf-8") != canonical_json(sums):
        write_json(path, sums)


def _flat(params: Params) -> dict[str, Any]:
    """Return `section.key` -> value, as MLflow's page shows parameters."""
    dumped: dict[str, dict[str, Any]] = params.model_dump(mode="json", by_alias=True)
    return {f"{section}.{key}": value for section, values in dumped.items() for key, value in values.items()}
