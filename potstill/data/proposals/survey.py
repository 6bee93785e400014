"""Data that comes in, read as the stages will read it: a proposal for it, and the splits and limits that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.config.base import LABELLED
from potstill.config.prepare_params import Prepare
from potstill.config.yaml_file import parse_section
from potstill.data.formats.tables import checked
from potstill.data.preparation import check_labelled
from potstill.data.proposals.limits import limits_of
from potstill.data.proposals.look import TableLook, look_at
from potstill.data.proposals.proposal import Proposal, Wishes, propose, split_counts
from potstill.data.reading import rows_of
from potstill.data.rows import Row, class_counts
from potstill.data.splits.stratifying import check_classes, fitting_split
from potstill.data.targets import Labels, names_of

# Of more rows near copies are not looked for here: that takes a quarter of a millisecond a row.
MOST_COMPARED = 30_000
# Characters that a cell may have by default; a longer one is mostly an open quote.
CELL = 100_000


@dataclass(frozen=True)
class Survey:
    """What is known of data before anything is trained.

    Attributes:
        looks: at its files.
        proposal: task and columns.
        given: rows of each split that the data gives, and what gives them.
        section: `prepare`, as it goes into params.yaml.
        splits: rows of each split without copies.
        labels: names of the model's outputs.
        report: of the reading, and rows that were removed.
        limits: keys of `validate`, which the data meets.
        compared: whether near copies were removed as well.
    """

    looks: Sequence[TableLook]
    proposal: Proposal
    given: tuple[Counter[str], str]
    section: dict[str, Any]
    splits: Mapping[str, Sequence[Row]]
    labels: Labels
    report: dict[str, Any]
    limits: dict[str, Any]
    compared: bool

    def classes(self, split: str | None = None) -> Counter[str]:
        """Rows of each class in one split, or in train, dev and test together."""
        splits = [split] if split else LABELLED
        return class_counts([row for name in splits for row in self.splits[name]], self.proposal.task)

    def texts(self) -> list[str] | list[tuple[str, str]]:
        """What a model reads, of every split."""
        rows = [row for group in self.splits.values() for row in group]
        pairs = [(row.text, row.text_pair) for row in rows if row.text_pair is not None]
        return pairs or [row.text for row in rows]


def survey(data: Path, wishes: Wishes) -> Survey:
    """Read data, propose a task, and make the splits as the stage prepare will make them.

    Args:
        data: a file or folder.
        wishes: what the user says of it.

    Raises:
        PotstillError: it cannot be read, it is not clear what is meant, or it is not enough; codes 3, 9, 20 to 30.
    """
    looks = look_at(data, wishes.separator, mixed=wishes.split == "draw")
    proposal = propose(looks, wishes, str(data))
    longest = max((column.longest for look in looks for column in look.columns), default=0)
    section = dict(proposal.section)
    if longest > CELL:
        section["max_cell_characters"] = longest * 2
    params = parse_section("prepare", Prepare, section)
    tables = [(checked(look.table, params.max_cell_characters), params.tables[0]) for look in looks]
    rows, report = rows_of(tables, params)
    labelled = [row for row in rows if row.label is not None]
    check_labelled(labelled, params.task)
    labels = names_of([row.label for row in labelled], params)
    compared = len(rows) <= MOST_COMPARED
    if not compared:
        params = params.model_copy(update={"near_duplicate": None})
    split, divided = fitting_split(rows, labels, params)
    check_classes(rows, divided.splits, labels, params.model_copy(update={"split": split}))
    section["split"] = split.model_dump(exclude_defaults=True)
    report["removed"] |= dict(divided.removed)
    limits = limits_of(divided.splits, params.task)
    given = split_counts(looks, wishes)
    return Survey(looks, proposal, given, section, divided.splits, labels, report, limits, compared)
