"""Predicts files: checks what is asked for, answers what has no answer yet, and joins the output."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from potstill.compute.processes import usable_cores
from potstill.config.predict_params import Predict
from potstill.errors import EmptyDataError, FetchError, FormatError, PotstillError, RejectedRowsError
from potstill.inference.profile import Profile
from potstill.inference.runtime import ModelCard, Student
from potstill.prediction.answer_columns import AnswerColumns
from potstill.prediction.explained_rows import ExplanationPlan, explain_rows
from potstill.prediction.input_files import InputFile, changed_file, list_inputs
from potstill.prediction.input_rows import check_columns, column_names
from potstill.prediction.output_parts import OutputParts
from potstill.prediction.output_rows import OutputRows, name_taken, output_format
from potstill.prediction.row_batches import Selection
from potstill.prediction.row_windows import read_windows
from potstill.prediction.uploaded_parts import UploadedParts
from potstill.prediction.window_scoring import ScoringSetup, scoring_threads
from potstill.prediction.window_tally import Facts, WindowTally
from potstill.progress import Bar, progress

# Rows after which a run ends early if too many of them were put aside; with fewer it is judged at the end.
_EARLY_ROWS = 100_000
# Windows for each thread that are read and not answered yet.
_WAITING = 2


@dataclass(frozen=True)
class ChosenModel:
    """The model that answers.

    Attributes:
        serving: its verified serving folder.
        card: its card.
        profile: its profile.
        candidate: sha256 of the serving folder's manifest.
        number: of its version in the registry.
        name: its name, as the header X-Model-Version gives it.
        abstain_below: the confidence below which it abstains; None: it never does.
        explained_words: most words, or runs of words, that its service removes to explain an answer.
    """

    serving: Path
    card: ModelCard
    profile: Profile
    candidate: str
    number: str
    name: str
    abstain_below: float | None
    explained_words: int


@dataclass(frozen=True)
class Predicted:
    """The outcome of a run.

    Attributes:
        summary: of the output: `rows`, `rejected`, `different`, `abstained`, `counts` in the bins of the profile, and
            its `sha256`.
        rows: rows that this run has answered itself.
        seconds: the time for these.
    """

    summary: Facts
    rows: int
    seconds: float


def predict_files(
    inputs: Sequence[str | InputFile],
    output: Path | str,
    model: ChosenModel,
    texts: tuple[str, ...],
    columns: tuple[str, ...] | None,
    settings: Predict,
    plan: ExplanationPlan | None = None,
) -> Predicted:
    """Answer every row of files.

    An interrupted run goes on where it stopped, and its output has the same bytes as that of a run that was not.

    Args:
        inputs: paths, folders, patterns and URLs, or files that were listed before.
        output: the file to write, or its URL; its suffix names the format.
        model: the model.
        texts: the column of the text, or the two of a pair.
        columns: the columns that are passed on; None: all.
        settings: the section `predict`.
        plan: the answers to explain; None: none are.

    Raises:
        FetchError, FormatError, EncodingError, ToolError: an input cannot be read, or has changed while it was read; of
            a damaged one no output is begun.
        MissingColumnError: a column is not there.
        EmptyDataError: there are no rows.
        OutputError: the output belongs to another run, or cannot be written.
        RejectedRowsError: too many rows were put aside.
        BusyError: another process writes the output.
    """
    columns = None if columns is None else tuple(dict.fromkeys(columns))
    parts = UploadedParts(output) if isinstance(output, str) else OutputParts(output)
    file_format = output_format(parts.output)
    files = list_inputs(inputs, parts.path)
    selection = Selection(texts, columns, settings.max_characters)
    answer_columns = AnswerColumns(model.card, model.name, model.abstain_below, settings.prefix)
    passed = _check_files(files, selection, answer_columns, needs_columns=file_format == "csv")
    rows = OutputRows(
        file_format,
        passed,
        tuple(answer_columns.schema.names),
        chosen=columns is not None,
        escape_formulas=settings.escape_formulas,
    )
    run = _description(files, model, selection, settings, plan)
    with parts.held():
        summary = parts.begin(run)
        if summary is not None:
            return Predicted(summary, 0, 0.0)
        setup = ScoringSetup(model.serving, model.profile, answer_columns, rows, parts.folder, plan)
        try:
            scored = _FileScoring(files, selection, parts, setup, settings)
            scored.run()
            changed = changed_file(files)
            if changed is not None:
                parts.discard()
                raise FetchError(f"{changed.location} has changed while it was read; run again once it is complete")
            if plan is not None:
                windows = map(parts.facts, range(scored.windows))
                student = Student(model.serving, settings.threads)
                parts.write_explained(explain_rows(plan, windows, student))
            summary = parts.join(scored.windows, rows, WindowTally(model.profile), run)
        except PotstillError as error:
            # What is wrong with the rows themselves stays wrong: another file, or another output, is another run.
            if isinstance(error, (FormatError, EmptyDataError)) or not (parts.finished() or parts.output.exists()):
                parts.discard()
            raise
    return Predicted(summary, scored.rows, scored.seconds)


def _check_files(
    files: Sequence[InputFile], selection: Selection, answers: AnswerColumns, *, needs_columns: bool
) -> tuple[str, ...] | None:
    """Check the columns of all files before anything is written.

    Returns:
        The columns that are passed on; None for all keys of JSON lines, unless the output needs columns.
    """
    first: tuple[InputFile, list[str]] | None = None
    for file in files:
        names = column_names(file)
        if names is None:
            continue
        check_columns(file, names, selection)
        passed = names if selection.columns is None else list(selection.columns)
        twice = next((name for name in passed if name in answers.schema.names), None)
        if twice is not None:
            raise name_taken(twice)
        if first is None:
            first = file, passed
        elif file.format != "jsonl" and set(passed) != set(first[1]):
            raise FormatError(
                f"{file.location} has other columns than {first[0].location}; predict them one by one, or name the "
                "columns that both have with --columns"
            )
    if first is None:
        raise EmptyDataError(f"{files[0].location} is empty, and so is every other input; give a file with data")
    keeps_keys = selection.columns is None and any(file.format == "jsonl" for file in files)
    return None if keeps_keys and not needs_columns else tuple(first[1])


def _description(
    files: Sequence[InputFile],
    model: ChosenModel,
    selection: Selection,
    settings: Predict,
    plan: ExplanationPlan | None,
) -> Facts:
    """Describe what the output depends on, as plain values."""
    return {
        "inputs": [file.identity for file in files],
        "version": model.number,
        "candidate": model.candidate,
        "abstain_below": model.abstain_below,
        "text": list(selection.texts),
        "columns": None if selection.columns is None else list(selection.columns),
        "max_characters": settings.max_characters,
        "window_rows": settings.window_rows,
        "prefix": settings.prefix,
        "escape_formulas": settings.escape_formulas,
        "explain": None if plan is None else asdict(plan),
    }


class _FileScoring:
    """Answers the windows of files that have no part yet.

    Attributes:
        windows: number of windows that were read.
        rows: rows that this run has answered.
        seconds: the time that it took.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        selection: Selection,
        parts: OutputParts,
        setup: ScoringSetup,
        settings: Predict,
    ) -> None:
        self._files = files
        self._selection = selection
        self._parts = parts
        self._setup = setup
        self._settings = settings
        self._tally = WindowTally(setup.profile)
        self._schema: pa.Schema | None = None
        self._position = 0.0
        self.windows = 0
        self.rows = 0
        self.seconds = 0.0

    def run(self) -> None:
        """Answer the windows.

        Raises:
            EmptyDataError: there are no rows.
            RejectedRowsError: too many rows were put aside.
            FormatError: rows do not fit the format of the output.
        """
        finished = self._parts.finished()
        for number in sorted(finished):
            self._count(number, self._parts.facts(number))
        total = sum(file.size for file in self._files)
        unit, size = ("MB", 1e6) if total >= 1e7 else ("kB", 1e3)
        with progress("predict", total / size, unit, done=self._position / size) as bar:
            self._answer(finished, bar, size)
        if not self._tally.sums["rows"] + self._tally.sums["rejected"]:
            raise EmptyDataError(f"{self._files[0].location} has a header and no rows; give a file with data")
        self._judge_rejected()

    def _answer(self, finished: set[int], bar: Bar, size: float) -> None:
        start = time.monotonic()
        threads = self._settings.threads or usable_cores()
        pending: dict[Future[Facts], int] = {}

        def collect() -> None:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                before = self._position
                facts = future.result()
                self.rows += facts["rows"]
                self._count(pending.pop(future), facts)
                rate = self.rows / max(time.monotonic() - start, 1e-9)
                bar.advance((self._position - before) / size, f"{self.rows:,} rows, {rate:,.0f} rows/s")

        with scoring_threads(self._setup, threads) as submit:
            for window in read_windows(self._files, self._selection, self._settings.window_rows):
                self.windows += 1
                if window.number not in finished:
                    pending[submit(window)] = window.number
                if len(pending) >= _WAITING * threads:
                    collect()
            while pending:
                collect()
        self.seconds = time.monotonic() - start

    def _count(self, number: int, facts: Facts) -> None:
        """Count a finished window, and check that its part fits those before."""
        self._tally.add(facts)
        self._position = max(self._position, facts["position"])
        if self._setup.rows.format == "parquet":
            self._schema = self._parts.schema(number, self._schema)
        if self._tally.sums["rows"] + self._tally.sums["rejected"] >= _EARLY_ROWS:
            self._judge_rejected()

    def _judge_rejected(self) -> None:
        """Refuse to go on if too many rows were put aside."""
        limit = self._settings.max_rejected_share
        share = self._tally.rejected_share
        if share > limit:
            count = self._parts.write_rejected()
            raise RejectedRowsError(
                f"{count:,} rows were put aside, {share:.1%} of those that were read, above "
                f"predict.max_rejected_share = {limit:.1%}; {self._parts.rejected} says why: correct them, or raise "
                "the limit and run again to go on"
            )
