"""Answers windows on all cores, and writes the part of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from potstill.inference.profile import Counts, Observation, Profile
from potstill.inference.runtime import Student, Text
from potstill.prediction.answer_columns import AnswerColumns
from potstill.prediction.answer_memory import AnswerMemory
from potstill.prediction.explained_rows import ExplanationPlan
from potstill.prediction.output_parts import write_part
from potstill.prediction.output_rows import OutputRows
from potstill.prediction.row_windows import RowWindow
from potstill.prediction.window_tally import Facts


@dataclass(frozen=True)
class ScoringSetup:
    """The model and the outputs that answering windows needs.

    Attributes:
        serving: the serving folder.
        profile: the profile of the model.
        columns: the columns of the answers.
        rows: writes the rows.
        parts: the folder of the parts.
        plan: the answers to explain; None: none are.
    """

    serving: Path
    profile: Profile
    columns: AnswerColumns
    rows: OutputRows
    parts: Path
    plan: ExplanationPlan | None


class WindowScorer:
    """A student that answers windows, each on one core. Safe to call from several threads."""

    def __init__(self, setup: ScoringSetup) -> None:
        self._setup = setup
        self._memory = AnswerMemory(Student(setup.serving, threads=1))

    def score(self, window: RowWindow) -> Facts:
        """Answer a window and write its part; equal texts are computed once.

        Returns:
            The facts of the window: numbers of `rows`, of `different` texts and of texts `abstained` from, the rows
            `rejected`, the `counts` in the bins of the profile, and with a plan the `candidates` for explanation.

        Raises:
            FormatError: the rows do not fit the format of the output.
            DiskFullError, OutputError: the part cannot be written.
        """
        setup = self._setup
        observed, answers = answer_texts(self._memory, setup.columns, window.texts)
        facts = {
            "file": window.location,
            "rejected": window.rejected,
            "position": window.position,
            **facts_of(observed, setup.columns, setup.profile),
        }
        if setup.plan is not None:
            different = {observation.text: observation for observation in observed}
            facts["candidates"] = setup.plan.candidates([*different.values()], window.texts)
        write_part(setup.parts, window.number, setup.rows.encode(window.rows, answers), facts)
        return facts


def answer_texts(
    memory: AnswerMemory, columns: AnswerColumns, texts: Sequence[Text]
) -> tuple[list[Observation], pa.Table]:
    """Answer texts, equal ones by one computation.

    Returns:
        [texts] each with its tokens and its answer, and the columns of the answers.
    """
    different = list(dict.fromkeys(texts))
    positions = {text: position for position, text in enumerate(different)}
    indices = [positions[text] for text in texts]
    observed = memory.observe(different)
    table = columns.table([observation.answer for observation in observed])
    return [observed[index] for index in indices], table.take(pa.array(indices, pa.int64()))


def facts_of(observed: Sequence[Observation], columns: AnswerColumns, profile: Profile) -> Facts:
    """Count answered texts: `rows`, `different` texts, texts `abstained` from, and `counts` in the bins."""
    counts = Counts(profile)
    if observed:
        counts.add(observed, columns.card)
    return {
        "rows": len(observed),
        "different": len({observation.text for observation in observed}),
        "abstained": sum(columns.abstains(observation.answer) for observation in observed),
        "counts": counts.to_json(),
    }


@contextmanager
def scoring_threads(setup: ScoringSetup, threads: int) -> Iterator[Callable[[RowWindow], Future[Facts]]]:
    """Start threads that answer windows, each on one core, and yield what submits a window to them.

    They share one model: a copy for each core would take memory, and its weights would push each other out of the
    cores' cache. The model's call, which takes nearly all of a text's time, lets other threads run.
    """
    scorer = WindowScorer(setup)
    pool = ThreadPoolExecutor(threads, "predict")
    try:
        yield lambda window: pool.submit(scorer.score, window)
    finally:
        pool.shutdown(cancel_futures=True)
