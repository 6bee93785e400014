"""Answers windows: what a process does that shares a run with others."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from potstill.compute.processes import die_with_parent
from potstill.errors import PotstillError
from potstill.inference.profile import Counts, Profile, observe
from potstill.inference.runtime import Student
from potstill.prediction.answer_columns import AnswerColumns
from potstill.prediction.output_parts import write_part
from potstill.prediction.output_rows import OutputRows
from potstill.prediction.row_windows import RowWindow
from potstill.prediction.window_tally import Facts


@dataclass(frozen=True)
class ScoringSetup:
    """What a process needs to answer windows.

    Attributes:
        serving: the serving folder.
        profile: the profile of the model.
        columns: the columns of the answers.
        rows: writes the rows.
        parts: the folder of the parts.
    """

    serving: Path
    profile: Profile
    columns: AnswerColumns
    rows: OutputRows
    parts: Path


class Submit(Protocol):
    """Has a window answered; the result is its facts."""

    def __call__(self, window: RowWindow) -> Future[Facts]: ...  # noqa: D102


class WindowScorer:
    """A student that answers one window after the other on one core."""

    def __init__(self, setup: ScoringSetup) -> None:
        self._setup = setup
        self._student = Student(setup.serving, threads=1)

    def score(self, window: RowWindow) -> Facts:
        """Answer a window and write its part; equal texts are computed once.

        Returns:
            The facts of the window: numbers of `rows` and of texts `computed` and `abstained` from, the rows
            `rejected`, and the `counts` in the bins of the profile.

        Raises:
            FormatError: the rows do not fit the format of the output.
            DiskFullError, OutputError: the part cannot be written.
        """
        setup = self._setup
        different = list(dict.fromkeys(window.texts))
        positions = {text: position for position, text in enumerate(different)}
        indices = pa.array([positions[text] for text in window.texts], pa.int64())
        observed = observe(self._student, different)
        answers = setup.columns.table([observation.answer for observation in observed]).take(indices)
        counts = Counts(setup.profile)
        if observed:
            counts.add([observed[positions[text]] for text in window.texts], self._student.card)
        name = f"{setup.columns.prefix}abstained"
        facts = {
            "file": window.location,
            "rows": len(window.texts),
            "rejected": window.rejected,
            "computed": len(different),
            "abstained": sum(answers.column(name).to_pylist()) if name in answers.column_names else 0,
            "counts": counts.to_json(),
            "position": window.position,
        }
        write_part(setup.parts, window.number, setup.rows.encode(window.rows, answers), facts)
        return facts


@contextmanager
def scoring_processes(setup: ScoringSetup, processes: int) -> Iterator[Submit]:
    """Start processes on demand that answer windows, each on one core; a single one is this process.

    Threads of one process would wait for each other: next to the model's call, a text takes some time in Python.
    """
    if processes == 1:
        yield _InProcess(setup)
        return
    context = get_context("spawn")  # a forked copy of onnxruntime's threads hangs
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(setup, os.getpid()))
    try:
        yield lambda window: pool.submit(_score, window)
    except BrokenProcessPool as error:
        raise PotstillError(
            "a process that computes answers has died, perhaps for want of memory; run again to go on, with fewer "
            "processes (predict.processes) if it dies again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class _InProcess:
    """Answers windows at once, in this process."""

    def __init__(self, setup: ScoringSetup) -> None:
        self._scorer = WindowScorer(setup)

    def __call__(self, window: RowWindow) -> Future[Facts]:
        future: Future[Facts] = Future()
        future.set_result(self._scorer.score(window))
        return future


# The scorer of this process, in a process that `scoring_processes` has started.
_scorers: list[WindowScorer] = []


def _start(setup: ScoringSetup, parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _scorers.append(WindowScorer(setup))


def _score(window: RowWindow) -> Facts:
    return _scorers[0].score(window)
