"""Turns what stages leave behind into MLflow runs, beside the run and not in its way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from potstill.errors import DiskFullError, StoreError
from potstill.progress import say
from potstill.registry import tracking
from potstill.registry.store_calls import COMMAND, RUN, patience

RECORDS = Path(".work/records")


class Recorder:
    """Writes to MLflow in a thread of its own: the first use of a new store costs seconds, while stages go on.

    The pipeline's own run is made when the first stage has really run; a run in which nothing happened leaves none.
    """

    def __init__(self, workspace: Path, project: str, params: Mapping[str, Any]) -> None:
        self._workspace, self._project, self._params = workspace, project, params
        self._folder = workspace / RECORDS
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._work: list[tuple[Callable[[], None], Future[None]]] = []
        self._lost = False
        self._parent: str | None = None
        self._runs: dict[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What tells a stage to leave its facts here."""
        return {tracking.RECORDS: str(self._folder)}

    def catch_up(self) -> None:
        """Write what a killed run left unwritten, and end its runs; nothing is done where nothing is left."""
        # Listed here and not in the thread: while that imports MLflow, this run's first stage may leave its own.
        left = sorted(self._folder.glob("*.json"))
        if left or tracking.has_store(self._workspace):
            self._begin(functools.partial(self._clean, left))

    def collect(self) -> None:
        """Take up what the stage that just ended has left."""
        for path in sorted(self._folder.glob("*.json")):
            self._begin(functools.partial(self._write, path))

    def parent(self) -> str:
        """The id of the pipeline's run, which is made now if nothing has happened yet."""
        self.wait()
        return self._thread.submit(self._ensure_parent).result()

    def wait(self) -> None:
        """Wait until everything is written; what failed while the store was away is tried once more.

        Raises:
            StoreError: MLflow did not take it. The next run writes what is left.
        """
        while self._work:
            function, future = self._work.pop(0)
            try:
                future.result()
            except StoreError:
                self._try_again(function)

    def _try_again(self, function: Callable[[], None]) -> None:
        for _, waiting in self._work:
            waiting.cancel()
        later = [function, *(other for other, _ in self._work)]
        self._work.clear()
        try:
            for again in later:
                self._thread.submit(again).result()
        except StoreError:
            self._lost = True
            raise

    def _begin(self, function: Callable[[], None]) -> None:
        self._work.append((function, self._thread.submit(function)))

    @property
    def parent_id(self) -> str | None:
        """The id of the pipeline's run, if it was made."""
        return self._parent

    def close(
        self, status: str, metrics: Mapping[str, float], outs: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """End the pipeline's run, if there is one.

        Args:
            status: MLflow's FINISHED, FAILED or KILLED.
            metrics: final numbers.
            outs: stage -> hash of its outs: each is tagged with the run that made it.
            tags: further tags.
        """
        finished = status == "FINISHED"
        try:
            # A run that was stopped is not held up by a store that is away.
            with patience(RUN if finished else COMMAND):
                self.wait()
                if self._parent is not None and not self._lost:
                    self._thread.submit(self._end, status, metrics, outs, tags).result()
        except (StoreError, DiskFullError) as error:
            if finished:
                raise
            say(f"the run's record is not complete: {error}")
        finally:
            self._thread.shutdown(cancel_futures=True)

    # --- in the thread ---

    def _ensure_parent(self) -> str:
        if self._parent is None:
            files = [self._workspace / "params.yaml"]
            self._parent = tracking.start_parent(self._workspace, self._project, self._params, files)
        return self._parent

    def _write(self, path: Path) -> None:
        if path.exists():
            record = tracking.read_record(path)
            self._runs[record.stage] = tracking.write_stage_run(self._workspace, record, self._ensure_parent())
            path.unlink()

    def _clean(self, left: list[Path]) -> None:
        tracking.end_stale_runs(self._workspace, self._project)
        for path in left:
            tracking.write_stage_run(self._workspace, tracking.read_record(path), None)
            path.unlink()

    def _end(self, status: str, metrics: Mapping[str, float], outs: Mapping[str, str], tags: Mapping[str, str]) -> None:
        assert self._parent is not None
        made = dict(self._runs)
        for stage, total in outs.items():
            found = made.get(stage) or tracking.find_stage_run(self._workspace, self._project, stage, total)
            if found is not None:
                made[stage] = found
        tracking.end_parent(
            self._workspace,
            self._parent,
            status,
            metrics=metrics,
            tags={**tags, **{f"stage.{stage}": run for stage, run in made.items()}},
            artifacts=[self._workspace / "dvc.lock"],
        )
