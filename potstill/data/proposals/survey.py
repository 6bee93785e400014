"""Surveys new data as the stages will read it: a proposal of params, and the splits and limits that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.config.base import LABELLED
from potstill.config.prepare_params import Prepare
from potstill.config.yaml_file import parse_section
from potstill.data.formats.tables import check_table
from potstill.data.preparation import check_labelled
from potstill.data.proposals.limits import propose_limits
from potstill.data.proposals.proposal import DataOptions, Proposal, propose, split_counts
from potstill.data.proposals.table_summaries import TableSummary, summarize_files
from potstill.data.reading import rows_from_tables
from potstill.data.rows import Row, class_counts
from potstill.data.splits.stratifying import check_classes, find_split
from potstill.data.targets import names_of
from potstill.errors import ParamsError
from potstill.kinds.definitions.kind import Names

# With more rows than this, near copies are not searched here, since that takes a quarter of a millisecond a row.
MAX_COMPARED = 30_000
# The default limit of a cell's characters. A longer cell mostly has an open quote.
DEFAULT_CELL = 100_000


@dataclass(frozen=True)
class Survey:
    """A survey of data before anything is trained.

    Attributes:
        summaries: of its files.
        proposal: task and columns.
        given_splits: number of rows in each split that the data gives, and the source of these splits.
        section: `prepare`, as it goes into params.yaml.
        splits: rows of each split without copies.
        labels: names of the model's outputs.
        report: on the reading, and on rows that were removed.
        limits: keys of `validate` that the data meets.
        compared: whether near copies were removed as well.
    """

    summaries: Sequence[TableSummary]
    proposal: Proposal
    given_splits: tuple[Counter[str], str]
    section: dict[str, Any]
    splits: Mapping[str, Sequence[Row]]
    labels: Names
    report: dict[str, Any]
    limits: dict[str, Any]
    compared: bool

    def classes(self, split: str | None = None) -> Counter[str]:
        """Count the rows of each class in a split, or in train, dev and test together."""
        splits = [split] if split else LABELLED
        return class_counts([row for name in splits for row in self.splits[name]], self.proposal.task)

    def texts(self) -> list[str] | list[tuple[str, str]]:
        """List the inputs of a model in all splits."""
        rows = [row for group in self.splits.values() for row in group]
        pairs = [(row.text, row.text_pair) for row in rows if row.text_pair is not None]
        return pairs or [row.text for row in rows]


def survey(data: Path, options: DataOptions) -> Survey:
    """Read data, propose a task, and make the splits as the stage prepare will.

    Args:
        data: a file or folder.
        options: the user's choices.

    Raises:
        PotstillError: the data cannot be read, is ambiguous or too small; codes 3, 9, 20 to 30.
    """
    if options.separator is not None and len(options.separator) != 1:
        raise ParamsError(f"--sep is {options.separator!r}; give the one character that separates the cells")
    summaries = summarize_files(data, options.separator, ignore_splits=options.split == "draw")
    proposal = propose(summaries, options, str(data))
    longest = max((column.longest for summary in summaries for column in summary.columns), default=0)
    section = dict(proposal.section)
    if longest > DEFAULT_CELL:
        section["max_cell_characters"] = longest * 2
    params = parse_section("prepare", Prepare, section)
    tables = [(check_table(summary.table, params.max_cell_characters), params.tables[0]) for summary in summaries]
    rows, report = rows_from_tables(tables, params)
    labelled = [row for row in rows if row.label is not None]
    check_labelled(labelled, params.task)
    labels = names_of([row.label for row in labelled], params)
    compared = len(rows) <= MAX_COMPARED
    if not compared:
        params = params.model_copy(update={"near_duplicate": None})
    split, split_rows = find_split(rows, labels, params)
    check_classes(rows, split_rows.splits, labels, params.model_copy(update={"split": split}))
    section["split"] = split.model_dump(exclude_defaults=True)
    report["removed"] |= dict(split_rows.removed)
    return Survey(
        summaries,
        proposal,
        given_splits=split_counts(summaries, options),
        section=section,
        splits=split_rows.splits,
        labels=labels,
        report=report,
        limits=propose_limits(split_rows.splits, params.task),
        compared=compared,
    )
