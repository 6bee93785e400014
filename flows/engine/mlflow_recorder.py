"""Turns the records of stages into MLflow runs, in a thread that no stage waits for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from potstill.artifacts import remove_unfinished
from potstill.errors import DiskFullError, StoreError
from potstill.paths import DVC_LOCK, PARAMS, RECORDS
from potstill.progress import say
from potstill.registry import tracking
from potstill.registry.store_calls import COMMAND, RUN, patience


class Recorder:
    """Writes to MLflow in a thread of its own: the first use of a new store costs seconds, in which stages go on.

    The pipeline's own run is created once a stage has really run. A run in which nothing happened leaves none.

    Attributes:
        parent_id: the id of the pipeline's run; None if it was not created, or by another machine.
    """

    def __init__(
        self, workspace: Path, project: str, params: Mapping[str, Any], elsewhere_id: str | None = None
    ) -> None:
        """Write nothing yet.

        Args:
            workspace: the workspace.
            project: name of the project.
            params: flat, for the pipeline's run.
            elsewhere_id: the pipeline's run if another machine has created it, which also ends it.
        """
        self._elsewhere_id = elsewhere_id
        self._workspace = workspace
        self._project = project
        self._params = params
        self._records = workspace / RECORDS
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._jobs: list[tuple[Callable[[], None], Future[None]]] = []
        self._incomplete = False
        self.parent_id: str | None = None
        self._runs: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The variables that tell a stage where to write its record."""
        return {tracking.RECORDS: str(self._records)}

    def catch_up(self) -> None:
        """Write the records that a killed run left, and end its runs; without a store and records nothing is done."""
        # Listed here, not in the thread: while that imports MLflow, this run's first stage may write its record.
        remove_unfinished(self._records)
        records = sorted(self._records.glob("*.json"))
        if records or tracking.has_store(self._workspace):
            self._submit(functools.partial(self._write_left_over, records))

    def collect(self) -> None:
        """Write the record of the stage that has just ended."""
        for path in sorted(self._records.glob("*.json")):
            self._submit(functools.partial(self._write, path))

    def parent(self) -> str:
        """Return the id of the pipeline's run, which is created now if it does not exist yet."""
        self.wait()
        return self._thread.submit(self._ensure_parent).result()

    def wait(self) -> None:
        """Wait until everything is written; a job that failed while the store was away is tried once more.

        Raises:
            StoreError: MLflow did not take it. The next run writes the rest.
        """
        while self._jobs:
            function, future = self._jobs.pop(0)
            try:
                future.result()
            except StoreError:
                self._retry(function)

    def _retry(self, failed: Callable[[], None]) -> None:
        """Run a failed job and all later ones once more."""
        for _, waiting in self._jobs:
            waiting.cancel()
        functions = [failed, *(later for later, _ in self._jobs)]
        self._jobs.clear()
        try:
            for function in functions:
                self._thread.submit(function).result()
        except StoreError:
            self._incomplete = True
            raise

    def _submit(self, function: Callable[[], None]) -> None:
        self._jobs.append((function, self._thread.submit(function)))

    def close(
        self, status: str, metrics: Mapping[str, float], outs: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """End the pipeline's run, if there is one.

        Args:
            status: MLflow's FINISHED, FAILED or KILLED.
            metrics: final numbers.
            outs: stage -> hash of its outs. The pipeline's run is tagged with the run that made them.
            tags: further tags.
        """
        finished = status == "FINISHED"
        try:
            # A run that was stopped does not wait long for a store that is away.
            with patience(RUN if finished else COMMAND):
                self.wait()
                if self.parent_id is not None and not self._incomplete:
                    self._thread.submit(self._end, status, metrics, outs, tags).result()
        except (StoreError, DiskFullError) as error:
            if finished:
                raise
            say(f"the run's record is not complete: {error}")
        finally:
            self._thread.shutdown(cancel_futures=True)

    # --- in the thread ---

    def _ensure_parent(self) -> str:
        if self._elsewhere_id is not None:
            return self._elsewhere_id
        if self.parent_id is None:
            files = [self._workspace / PARAMS]
            self.parent_id = tracking.start_parent(self._workspace, self._project, self._params, files)
        return self.parent_id

    def _write(self, path: Path) -> None:
        if path.exists():
            stage, run_id = self._write_record(path, self._ensure_parent())
            self._runs[stage] = run_id

    def _write_left_over(self, records: list[Path]) -> None:
        tracking.end_stale_runs(self._workspace, self._project)
        for path in records:
            self._write_record(path, None)

    def _write_record(self, path: Path, parent: str | None) -> tuple[str, str]:
        """Create the run of a record, and remove the record; return the stage and the run's id.

        Whoever is killed between the two leaves a record with a run, which its key finds again.
        """
        record = tracking.read_record(path)
        run_id = tracking.write_stage_run(self._workspace, record, parent, key=path.stem)
        path.unlink()
        return record.stage, run_id

    def _end(self, status: str, metrics: Mapping[str, float], outs: Mapping[str, str], tags: Mapping[str, str]) -> None:
        assert self.parent_id is not None
        stage_runs = dict(self._runs)
        for stage, outs_sum in outs.items():
            run = stage_runs.get(stage) or tracking.find_stage_run(self._workspace, self._project, stage, outs_sum)
            if run is not None:
                stage_runs[stage] = run
        tracking.end_parent(
            self._workspace,
            self.parent_id,
            status,
            metrics=metrics,
            tags={**tags, **{f"stage.{stage}": run for stage, run in stage_runs.items()}},
            artifacts=[self._workspace / DVC_LOCK],
        )
