"""Proposes the section `prepare` for a user's tables: task, columns and splits, with the reason.

If two readings are likely, nothing is guessed. An error says what the data looks like and which option decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from potstill.data.formats.cells import MISSING_WORDS
from potstill.data.formats.tabular import Table
from potstill.data.proposals.column_choice import choose_label, choose_text
from potstill.data.proposals.column_summaries import (
    column_values,
    describe_column,
    distinct_count,
    is_long_text,
    merge_column,
    merge_summaries,
)
from potstill.data.proposals.table_summaries import ColumnSummary, TableSummary, is_integer
from potstill.data.splits.split_names import given_splits
from potstill.errors import LabelError, ParamsError
from potstill.kinds.definitions.kind import Form
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind

# The names of tasks in --task.
TASK_NAMES: Mapping[str, TaskKind] = {
    **{name: name for name in KINDS},
    **{kind.short_name: name for name, kind in KINDS.items()},
}
# With up to this many different values, integers are taken for classes, and so are other numbers.
_MAX_INTEGER_CLASSES = 20
_MAX_NUMBER_CLASSES = 5
# Signs that may separate labels in a cell. One does if at least this share of the cells has it.
_SEPARATORS = ("|", ";", ",")
_SEPARATED_SHARE = 0.02
# Stands for no class among integers that count from 0.
_NO_CLASS = -1
# The kinds of columns in which a word such as `nan` may be a label.
_NAME_KINDS = ("text", "integer", "number", "labels")


@dataclass(frozen=True)
class DataOptions:
    """The options of `potstill init` about the data. None or empty: it is detected.

    Attributes:
        text: the column of texts, or two for pairs.
        label: the column of labels, or several columns of 0 and 1.
        task: a name in `TASK_NAMES`, or `pairs`.
        split: the column of splits, or `draw` for new splits.
        separator: between the cells of a CSV file.
        labels: names of integer classes or tags in their order, or the set of labels.
        unlabelled: transfer or leave_out, for rows without a label.
    """

    text: Sequence[str] = ()
    label: Sequence[str] = ()
    task: str | None = None
    split: str | None = None
    separator: str | None = None
    labels: Sequence[str] = ()
    unlabelled: str | None = None


@dataclass(frozen=True)
class Proposal:
    """A proposal for the section `prepare`.

    Attributes:
        task: the proposed task.
        section: the keys that depend on the data.
        why: the reason for the task.
        columns: all columns of the data.
        notes: what else the user should know.
    """

    task: TaskKind
    section: dict[str, Any]
    why: str
    columns: dict[str, ColumnSummary]
    notes: list[str] = field(default_factory=list)


def propose(summaries: Sequence[TableSummary], options: DataOptions, location: str) -> Proposal:
    """Propose the section `prepare` for summarized files.

    Args:
        summaries: of all files.
        options: the user's choices.
        location: the data, for messages.

    Raises:
        ParamsError: columns or task are ambiguous, or the options contradict the data.
        MissingColumnError: a file lacks a column that an option names.
        LabelError: rows lack a label, and no option says what happens to them.
    """
    _check(options)
    columns = merge_summaries(summaries)
    _merge_answer_paths(columns, summaries)
    split_column = _split_column(summaries, options)
    split_columns = [] if split_column is None else [split_column]
    for name in (*options.text, *options.label, *split_columns):
        _add_column(columns, summaries, name)
    text = list(options.text) or choose_text(columns, location, [*options.label, *split_columns])
    label = list(options.label) or choose_label(columns, location, [*text, *split_columns])
    detector = _TaskDetector(summaries, columns, text, label, options, location)
    task, section, why = detector.task_section()
    unlabelled = detector.unlabelled(task)
    section = {
        "task": task,
        "tables": [_table(options)],
        "text": text[0] if len(text) == 1 else text,
        **section,
        **({} if unlabelled is None else {"unlabelled": unlabelled}),
    }
    notes = [*detector.notes, *_unused_columns(columns, {*text, *label, *split_columns})]
    return Proposal(task, section, why, columns, notes)


def split_counts(summaries: Sequence[TableSummary], options: DataOptions) -> tuple[Counter[str], str]:
    """Count the rows of each given split, `auto` for rows without one, and name the source of the splits."""
    column = _split_column(summaries, options)
    mode = "draw" if options.split == "draw" else "auto"
    counts = Counter(split for summary in summaries for split in given_splits(summary.table, mode, column))
    if column:
        return counts, f"the column {column!r}"
    by_name = mode == "auto" and any(summary.table.split for summary in summaries)
    return counts, "their names" if by_name else ""


def _split_column(summaries: Sequence[TableSummary], options: DataOptions) -> str | None:
    if options.split is not None:
        return None if options.split == "draw" else options.split
    return next((summary.split_column for summary in summaries if summary.split_column is not None), None)


def _add_column(columns: dict[str, ColumnSummary], summaries: Sequence[TableSummary], name: str) -> None:
    """Summarize a column, or a dotted path into one, over all files."""
    columns[name] = reduce(merge_column, (summary.column(name) for summary in summaries))


def _merge_answer_paths(columns: dict[str, ColumnSummary], summaries: Sequence[TableSummary]) -> None:
    """Summarize SQuAD's answers as a column in place of the paths into them."""
    for name in dict.fromkeys(name for summary in summaries for name in summary.table.columns):
        if name in columns or name not in summaries[0].table.columns or summaries[0].column(name).kind != "answers":
            continue
        for path in [path for path in columns if path.startswith(f"{name}.")]:
            del columns[path]
        _add_column(columns, summaries, name)


def _table(options: DataOptions) -> dict[str, Any]:
    table: dict[str, Any] = {"source": "data"}
    if options.separator is not None:
        table["separator"] = options.separator
    if options.split is not None:
        table |= {"split": "draw"} if options.split == "draw" else {"split_column": options.split}
    return table


def _check(options: DataOptions) -> None:
    """Refuse options with unknown values."""
    for option, value, known in (
        ("--task", options.task, (*TASK_NAMES, "pairs")),
        ("--unlabelled", options.unlabelled, ("transfer", "leave_out")),
    ):
        if value is not None and value not in known:
            raise ParamsError(f"{option} {value!r} is not known; use {', '.join(known)}")
    if len(options.text) > 2:
        raise ParamsError(f"--text names {len(options.text)} columns; a text is one, a pair is two")


def _unused_columns(columns: Mapping[str, ColumnSummary], used: set[str]) -> list[str]:
    """Note the columns that nothing reads."""
    unused = [name for name, column in columns.items() if name not in used and column.kind != "empty"]
    return [f"not read: {', '.join(map(repr, unused))}"] if unused else []


class _TaskDetector:
    """Detects the task from the columns of text and label."""

    def __init__(
        self,
        summaries: Sequence[TableSummary],
        columns: Mapping[str, ColumnSummary],
        text: Sequence[str],
        label: Sequence[str],
        options: DataOptions,
        location: str,
    ) -> None:
        self._tables: list[Table] = [summary.table for summary in summaries]
        self._columns = columns
        self._text = text
        self._options = options
        self._location = location
        self._labels = label
        self._label = columns[label[0]]
        self.notes: list[str] = []

    def task_section(self) -> tuple[TaskKind, dict[str, Any], str]:
        """Choose the task and the keys of `prepare` that belong to it, and say why."""
        requested = None if self._options.task in (None, "pairs") else TASK_NAMES[str(self._options.task)]
        if self._options.task == "pairs" and len(self._text) != 2:
            raise ParamsError(
                f"{self._location}: --task pairs needs two columns of texts; name them: --text first,second"
            )
        likely, why = self._likely_task()
        task = requested or likely
        if requested and requested != likely:
            why = f"--task says so; it looks like {likely}: {why}"
        sections: Mapping[Form, Callable[[], dict[str, Any]]] = {
            "class": self._single_label,
            "labels": self._multi_label,
            "number": self._regression,
            "entities": self._token_classification,
            "span": self._question_answering,
        }
        return task, sections[KINDS[task].form](), why

    def _likely_task(self) -> tuple[TaskKind, str]:
        label = self._label
        name = label.name
        if len(self._labels) > 1:
            return "multi_label", f"{len(self._labels)} columns of 0 and 1 are the labels"
        if label.kind == "answers":
            return "question_answering", f"{name!r} holds answers with their starts in a context"
        if label.kind == "spans":
            return "token_classification", f"{name!r} holds spans of the text"
        if self._columns[self._text[0]].kind == "words":
            return "token_classification", f"{self._text[0]!r} holds lists of words and {name!r} a tag for each"
        if label.several:
            return "multi_label", f"{label.several:,} cells of {name!r} hold several labels"
        if label.kind in ("integer", "number") and not label.class_names:
            return self._likely_task_of_numbers()
        separator = self._separator() if label.kind == "text" else None
        if separator is not None:
            return "multi_label", f"cells of {name!r} hold several names with {separator!r} between them"
        if label.kind == "labels":
            return "single_label", f"every list in {name!r} holds one label"
        return "single_label", f"{name!r} has {distinct_count(label):,} different names"

    def _likely_task_of_numbers(self) -> tuple[TaskKind, str]:
        label = self._label
        count = distinct_count(label)
        if count > (_MAX_INTEGER_CLASSES if label.kind == "integer" else _MAX_NUMBER_CLASSES):
            return "regression", f"{label.name!r} has many different numbers (classes: --task single_label)"
        why = f"{label.name!r} has {count} different numbers"
        if count > 2:
            why += " taken for classes without an order (if near misses count for something: --task regression)"
        return "single_label", why

    # --- the section of each task ---

    def _single_label(self) -> dict[str, Any]:
        self._require_one_column("single_label")
        label = self._label
        if label.kind in ("spans", "answers", "object", "tags"):
            raise ParamsError(
                f"{self._location}: {describe_column(label)} has no names of classes; name another with --label"
            )
        if label.kind == "text" and (is_long_text(label) or distinct_count(label) > max(2, label.rows / 2)):
            raise ParamsError(
                f"{self._location}: {describe_column(label)} of {label.rows:,} rows looks like texts, not like names "
                "of classes; name the label's column with --label"
            )
        return {"label": self._column(), "labels": self._label_set()}

    def _multi_label(self) -> dict[str, Any]:
        if len(self._labels) > 1:
            return {"label": {"kind": "columns", "columns": list(self._labels)}, "labels": None}
        label = self._column()
        if self._label.kind == "text":
            label["separator"] = self._separator()
        if self._label.kind not in ("text", "labels") or label.get("separator", "") is None:
            raise ParamsError(
                f"{self._location}: no cell of {describe_column(self._label)} holds several labels: it is no list, and "
                f"none of {' '.join(_SEPARATORS)} divides it; take --task single_label"
            )
        return {"label": label, "labels": self._label_set()}

    def _regression(self) -> dict[str, Any]:
        self._require_one_column("regression")
        if self._label.kind not in ("integer", "number"):
            raise ParamsError(f"{self._location}: {describe_column(self._label)} holds no numbers; take another --task")
        return {"label": {"kind": "number", "column": self._label.name}, "labels": None}

    def _token_classification(self) -> dict[str, Any]:
        self._require_one_column("token_classification")
        if self._label.kind == "spans":
            return {"label": {"kind": "spans", "column": self._label.name}, "labels": None}
        words = self._columns[self._text[0]]
        if words.kind != "words" or self._label.kind not in ("tags", "words", "labels"):
            raise ParamsError(
                f"{self._location}: entities need lists of words with lists of tags, or spans of the text; "
                f"{describe_column(words)} and {describe_column(self._label)} are neither"
            )
        label: dict[str, Any] = {"kind": "tags", "column": self._label.name}
        tags = self._label.values or {}
        if tags and all(tag.isdecimal() for tag in tags) and not self._label.class_names:
            label["names"] = self._tag_names(max(map(int, tags)) + 1)
        if self._without_spaces():
            label["between"] = ""
        return {"label": label, "labels": None}

    def _tag_names(self, count: int) -> list[str]:
        if len(self._options.labels) < count:
            raise LabelError(
                f"{self._location}: the tags of {self._label.name!r} are integers up to {count - 1}, and the data does "
                f"not name them; give their {count} names in order: --labels O,B-PER,I-PER,..."
            )
        return list(self._options.labels)

    def _question_answering(self) -> dict[str, Any]:
        self._require_one_column("question_answering")
        if len(self._text) != 2:
            raise ParamsError(f"{self._location}: name the columns of question and context: --text question,context")
        if self._label.kind != "answers":
            raise ParamsError(
                f'{self._location}: answers have SQuAD\'s form, {{"text": ["Paris"], "answer_start": [17]}}; '
                f"{describe_column(self._label)} has not"
            )
        return {"label": {"kind": "answers", "column": self._label.name}, "labels": None}

    # --- details ---

    def _require_one_column(self, task: TaskKind) -> None:
        if len(self._labels) > 1:
            raise ParamsError(f"{self._location}: {task} has one column of labels; name one with --label")

    def _column(self) -> dict[str, Any]:
        missing = {"missing": [_NO_CLASS]} if self._counts_from_minus_one() else {}
        return {"kind": "column", "column": self._label.name, **missing}

    def _label_set(self) -> list[str | int] | None:
        names = self._options.labels
        if not names or self._label.kind != "integer":
            return list(names) or None
        if not all(map(is_integer, names)):
            raise ParamsError(
                f"{self._location}: {describe_column(self._label)} holds integers, but --labels names "
                f"{', '.join(names)}; list the integers themselves, or leave --labels out"
            )
        return [int(name) for name in names]

    def _separator(self) -> str | None:
        """Find the sign between several labels in a cell. At least half of the parts that it divides repeat."""
        cells = self._label.values or {}
        for sign in _SEPARATORS:
            parts = Counter(part for cell in cells for part in {part.strip() for part in cell.split(sign)} - {""})
            separated = sum(count for cell, count in cells.items() if sign in cell)
            repeated = sum(count > 1 for count in parts.values())
            if separated >= max(2, _SEPARATED_SHARE * sum(cells.values())) and repeated >= len(parts) / 2:
                return sign
        return None

    def _without_spaces(self) -> bool:
        """Whether the words are characters of a script without spaces."""
        texts = column_values(self._tables, self._text[0])[:200]
        words = [str(word) for text in texts if isinstance(text, list) for word in text]
        return bool(words) and sum(len(word) == 1 and ord(word) > 0x2E80 for word in words) > len(words) / 2

    def unlabelled(self, task: TaskKind) -> str | None:
        """Choose what happens to rows without a label. None: there are no such rows.

        Raises:
            LabelError: there are such rows, and no option says what happens to them.
        """
        reasons = self._unlabelled_rows(task)
        if not reasons:
            return None
        if self._options.unlabelled is None:
            raise LabelError(
                f"{self._location} has rows that no label can be learned from: {', '.join(reasons)}; say what "
                "becomes of them: --unlabelled transfer (the student learns the teacher's answers to them) or leave_out"
            )
        outcome = "go to transfer" if self._options.unlabelled == "transfer" else "are left out"
        self.notes.append(f"rows that {outcome}: {', '.join(reasons)}")
        return self._options.unlabelled

    def _unlabelled_rows(self, task: TaskKind) -> list[str]:
        """Count the rows that need a label and have none, by reason."""
        reasons = []
        empty = sum(self._columns[name].missing for name in self._labels)
        if KINDS[task].form == "labels" and self._label.kind == "text":
            # Here an empty cell says that no label applies.
            empty = sum(value is None for value in column_values(self._tables, self._label.name))
        if empty:
            reasons.append(f"{empty:,} with an empty label")
        words = self._label.missing_words if self._label.kind in _NAME_KINDS else 0
        if words and not MISSING_WORDS & set(self._options.labels):
            reasons.append(f"{words:,} with a word such as nan (if it is a class, list all with --labels)")
        if self._label.class_names and self._no_class_rows():
            self.notes.append(f"{self._no_class_rows():,} rows with the class -1 have no label: they go to transfer")
        elif KINDS[task].form == "class" and self._counts_from_minus_one():
            names = ",".join(sorted(self._label.values or (), key=int))
            reasons.append(f"{self._no_class_rows():,} with the label -1 (if it is a class: --labels={names})")
        undecided = Counter(reason for table in self._tables for reason in table.undecided.values())
        return reasons + [f"{count:,} with {reason!r}" for reason, count in undecided.items()]

    def _no_class_rows(self) -> int:
        return (self._label.values or {}).get(str(_NO_CLASS), 0)

    def _counts_from_minus_one(self) -> bool:
        """Whether integer labels without names start with -1 and 0, and no option says that -1 is a class."""
        values = self._label.values or {}
        if self._label.kind != "integer" or self._options.labels or not self._no_class_rows():
            return False
        if not all(map(is_integer, values)):  # a sample of them decides the kind
            return False
        return sorted(map(int, values))[:2] == [_NO_CLASS, 0]
