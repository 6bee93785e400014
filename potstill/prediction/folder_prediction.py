"""Predicts a watched folder: answers each file once it is complete, and goes on until it is interrupted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NoReturn

from potstill.artifacts import read_json_if_present, remove_file, write_json
from potstill.config.predict_params import Predict
from potstill.errors import (
    BusyError,
    EmptyDataError,
    EncodingError,
    FetchError,
    FormatError,
    MissingColumnError,
    OutputError,
    PotstillError,
    RejectedRowsError,
)
from potstill.inference.profile import Counts
from potstill.inference.window_store import file_system
from potstill.prediction.alerting import Alerting
from potstill.prediction.arrival_metrics import FolderMetrics
from potstill.prediction.file_prediction import ChosenModel, Predicted, predict_files
from potstill.prediction.input_files import InputFile, is_local, list_folder
from potstill.prediction.output_parts import OutputParts, writing_errors
from potstill.prediction.window_tally import Facts
from potstill.progress import say

# What is wrong with one file, and says nothing of the others.
_OF_ONE_FILE = (EmptyDataError, EncodingError, FormatError, MissingColumnError, OutputError, RejectedRowsError)


class FolderPrediction:
    """Answers the files of a folder, each in a file of its name below another folder.

    A file is complete when it has stayed the same for `predict.settle_seconds`. One that cannot be answered is put
    aside: `<its answers>.failed.json` says why, and it is tried again when it has changed.

    Args:
        folder: path or URL of the folder.
        output: the folder of the answers.
        model: the model.
        texts: the column of the text, or the two of a pair.
        columns: the columns that are passed on; None: all.
        settings: the section `predict`.
        metrics: where it counts.
        alerting: what is told of the answers; windows are of the times at which files were answered.

    Raises:
        FetchError: the folder is not there.
        OutputError: the answers would be in the folder itself.
    """

    def __init__(
        self,
        folder: str,
        output: Path,
        model: ChosenModel,
        texts: tuple[str, ...],
        columns: tuple[str, ...] | None,
        settings: Predict,
        metrics: FolderMetrics,
        alerting: Alerting,
    ) -> None:
        list_folder(folder)
        files, path = file_system(folder)
        if is_local(files) and output.resolve().is_relative_to(Path(path).resolve()):
            raise OutputError(f"{output} is in {folder}, so that its answers would be answered; name another folder")
        self._folder = folder
        self._output = output
        self._model = model
        self._texts = texts
        self._columns = columns
        self._settings = settings
        self._metrics = metrics
        self._alerting = alerting
        self._seen: dict[str, list[Any]] = {}
        self._since: dict[str, float] = {}
        self._settled: dict[str, list[Any]] = {}

    def run(self) -> NoReturn:
        """Answer files as they arrive, until an interruption; a file that was begun is gone on with by the next run.

        Raises:
            DiskFullError: the disk is full.
        """
        self._alerting.judge()
        while True:
            self.scan()
            time.sleep(self._settings.settle_seconds)

    def scan(self) -> None:
        """Answer the files that are complete: those that are as the scan before has seen them."""
        try:
            files = list_folder(self._folder)
        except FetchError as error:
            self._metrics.failures.inc()
            say(f"watch: {error}; looking again in {self._settings.settle_seconds:g} s")
            return
        waiting = {name: file for name, file in files.items() if self._settled.get(name) != file.identity}
        ready = [name for name, file in waiting.items() if self._seen.get(name) == file.identity]
        now = time.monotonic()
        self._since = {name: self._since[name] if name in ready else now for name in waiting}
        self._seen = {name: file.identity for name, file in files.items()}
        self._metrics.waiting.set(len(waiting))
        for name in ready:
            self._predict(name, files[name])
            self._alerting.judge()

    def _predict(self, name: str, file: InputFile) -> None:
        """Answer a file, unless that was done before."""
        target = self._output / f"{name}.{self._settings.watch_format}"
        aside = Path(f"{target}.failed.json")
        try:
            if not self._was_settled(file, OutputParts(target), aside):
                predicted = self._answer(file, target)
                remove_file(aside)
                self._count(file, target, predicted.summary)
                self._metrics.seconds.observe(time.monotonic() - self._since[name])
        except BusyError:  # another process answers it
            return
        except FetchError as error:
            self._metrics.failures.inc()
            say(f"watch: {error}")
            return
        except _OF_ONE_FILE as error:
            self._put_aside(file, aside, error)
        self._settled[name] = file.identity
        self._metrics.waiting.dec()

    def _count(self, file: InputFile, target: Path, summary: Facts) -> None:
        say(f"watch: {file.location}: {summary['rows']:,} rows, {summary['rejected']:,} rejected; {target}")
        self._metrics.files.labels("answered").inc()
        self._metrics.rows.labels("answered").inc(summary["rows"])
        self._metrics.rows.labels("rejected").inc(summary["rejected"])
        counts = Counts(self._model.profile)
        counts.merge(summary["counts"])
        self._alerting.count(self._alerting.start_of(time.time()), counts)

    def _was_settled(self, file: InputFile, parts: OutputParts, aside: Path) -> bool:
        """Whether a run before, of whichever model, has answered this very file or put it aside."""
        complete = parts.summary()
        if complete is not None and complete[0]["inputs"] == [file.identity]:
            parts.tidy()
            return True
        return bool(read_json_if_present(aside).get("file") == file.identity)

    def _answer(self, file: InputFile, target: Path) -> Predicted:
        def answer() -> Predicted:
            return predict_files([file], target, self._model, self._texts, self._columns, self._settings)

        try:
            return answer()
        except OutputError:
            parts = OutputParts(target)
            if parts.summary() is not None:
                raise
            # What an interrupted run has left: of the file as it was before, or of another model.
            with parts.held():
                parts.discard()
            return answer()

    def _put_aside(self, file: InputFile, aside: Path, error: PotstillError) -> None:
        with writing_errors(aside):
            write_json(aside, {"file": file.identity, "exit_code": error.exit_code, "reason": str(error)})
        self._metrics.files.labels("failed").inc()
        say(f"watch: {file.location} is put aside: {error}")
