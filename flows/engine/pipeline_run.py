"""One run of a workspace: what the Prefect tasks of flows/engine/prefect_flow.py do. Imports no Prefect."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.engine.dvc_graph import Graph, free_dead_locks
from flows.engine.flow_errors import StageError
from flows.engine.mlflow_recorder import Recorder
from potstill import environment
from potstill.artifacts import MANIFEST, canonical_json, file_sums, read_json, sha256_file, write_json
from potstill.compute.processes import hold
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import ApprovalPendingError, GateRefusedError, PotstillError, TimeLimitError
from potstill.progress import say
from potstill.registry import tracking
from potstill.registry.steps import VetoedError
from potstill.registry.store_calls import RUN, patience
from potstill.registry.version_artifacts import clean_scratch
from tasks.stage import FAILURE, INSIDE_RUN, RUN_LOCK, WORK, load_stage

if TYPE_CHECKING:
    from potstill.registry.promotion import Registry
    from potstill.registry.versions import Version

SOURCES = Path("data/sources.json")
CURRENT = "current"


@dataclass
class Times:
    """Seconds of one step, and of them the training and inference inside it."""

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
    # Whether this run has registered a version, for which its evidence was logged.
    registered: bool = False

    # --- stages ---

    def stage(self, name: str) -> str:
        """Bring one DVC stage up to date in a child process; one that is current starts none.

        Returns:
            `current`, or what happened.

        Raises:
            StageError: the stage failed with a sentence of its own.
            PotstillError: DVC could not run it, or it ran past its limit.
        """
        if not self.graph.is_stale(name):
            say(f"{name}: {CURRENT}")
            return CURRENT
        from flows.engine.stage_process import reproduce
        from tasks.early import check_early

        check_early(self.params, self.workspace, self.graph.order[: self.graph.order.index(name)])
        failure = self.workspace / FAILURE
        failure.unlink(missing_ok=True)
        timing = self.workspace / WORK / "timings" / f"{name}.json"
        timing.unlink(missing_ok=True)
        variables = {INSIDE_RUN: str(os.getpid()), **self.recorder.environment}
        start = time.monotonic()
        try:
            reproduce(name, self.workspace, variables, 60 * self.params.schedule.stage_minutes)
        except TimeLimitError:
            raise  # the sentence the stage left says "interrupted", since that is what the limit did to it
        except PotstillError:
            if failure.exists() and (said := read_json(failure))["stage"] == name:
                raise StageError(said["message"], said["exit_code"]) from None
            raise
        finally:
            work = sum(read_json(timing)["work"].values()) if timing.exists() else 0.0
            self.times[name] = Times(time.monotonic() - start, work)
            self.graph.forget()
            self.recorder.collect()
        return "run" if timing.exists() else "taken from the cache"

    def is_current(self) -> bool:
        """Whether a run would change nothing: each stage is current, and this very candidate is the champion."""
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
        """Stage -> hash of its outs, for the tag that finds the run which made them."""
        found = {}
        for name in self.graph.order:
            folders = {key: path for key, path in load_stage(name, self.params).outs.items() if path.is_dir()}
            found[name] = tracking.outs_sum({key: _identity(path) for key, path in folders.items()})
        return found

    # --- candidate ---

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count a step that is no DVC stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.times[name] = Times(time.monotonic() - start)

    def registry(self) -> Registry:
        """The project's registry; the recorder's thread must be idle, since the first use makes the store."""
        from potstill.registry.promotion import Registry

        self.recorder.wait()
        return Registry(self.workspace, self.params.project.name)

    def settled(self, champion: Version | None) -> Version | None:
        """See `tasks.register.settled`."""
        from tasks.register import settled

        return settled(self.params, self.workspace, champion)

    def champion_sentence(self) -> str:
        """Which version is champion."""
        champion = self.registry().champion()
        name = self.params.project.name
        return f"version {champion.version} of {name} is the champion" if champion else f"{name} has no champion"

    def held_back(self) -> str | None:
        """Why the candidate is not promoted although it passed, in a sentence: a person took it back."""
        from tasks.register import held_back

        return held_back(self.params, self.workspace)

    def close(self, status: str) -> None:
        """End the pipeline's MLflow run, if anything was done, with its evidence.

        A run that has registered a version has done what it was for, however it ends.
        """
        from tasks.register import METRICS, log_evidence

        metrics = {f"seconds.{name}": times.wall for name, times in self.times.items()}
        parent = self.recorder.parent_id
        if parent is not None:
            self.recorder.wait()
            if self.registered:
                status = "FINISHED"
            elif status == "FINISHED" and (self.workspace / METRICS).exists():
                log_evidence(self.workspace, parent)
        self.recorder.close(status, metrics, self.outs() if parent is not None else {}, self.facts)


_open: Run | None = None


@contextmanager
def open_run(workspace: Path) -> Iterator[Run]:
    """Hold a workspace for one run; inside a run that is open in this process, that run.

    Raises:
        ParamsError: params.yaml does not fit.
        BusyError: another run goes on.
        ToolError: the folder is no workspace.
    """
    global _open
    if _open is not None:
        yield _open
        return
    params = load_params(workspace / "params.yaml")
    environment.prepare()
    with hold(workspace / RUN_LOCK, what="a run"), patience(RUN):
        _write_sources(workspace, params)
        free_dead_locks(workspace)
        clean_scratch(workspace)
        recorder = Recorder(workspace, params.project.name, _flat(params))
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
    """Let DVC see what changed in local sources, which lie outside its sight."""
    from potstill.data.fetching.ingestion import local_fingerprint

    sums = local_fingerprint(params.ingest)
    path = workspace / SOURCES
    if not path.exists() or path.read_text(encoding="utf-8") != canonical_json(sums):
        write_json(path, sums)


def _identity(folder: Path) -> Any:
    return sha256_file(folder / MANIFEST) if (folder / MANIFEST).exists() else file_sums(folder)


def _flat(params: Params) -> dict[str, Any]:
    """`section.key` -> value, as MLflow's page shows parameters."""
    dumped: dict[str, dict[str, Any]] = params.model_dump(mode="json", by_alias=True)
    return {f"{section}.{key}": value for section, values in dumped.items() for key, value in values.items()}
