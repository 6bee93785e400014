"""What `prepare` is to do with the tables of a user: task, columns and splits, each with the reason.

Nothing is guessed where two readings are likely: then a sentence says what was seen and how to say which it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from potstill.config.base import TaskKind
from potstill.data.formats.cells import MISSING_WORDS
from potstill.data.formats.tabular import Table
from potstill.data.proposals.choosing import choose_label, choose_text
from potstill.data.proposals.column_looks import different, in_words, is_long_text, merge, merge_columns, values_of
from potstill.data.proposals.look import ColumnLook, TableLook
from potstill.data.splits.split_names import given_splits
from potstill.errors import LabelError, ParamsError

# Other words for a task.
TASK_NAMES: Mapping[str, TaskKind] = {
    **{name: name for name in get_args(TaskKind)},
    "classes": "single_label",
    "labels": "multi_label",
    "number": "regression",
    "entities": "token_classification",
    "answers": "question_answering",
}
# Different numbers up to which integers are taken for classes, and others.
_MOST_CLASSES, _MOST_FRACTIONS = 20, 5
# Signs between several labels in one cell, and the share of cells with one from which it is taken for that.
_SEPARATORS = ("|", ";", ",")
_SEPARATED = 0.02
# What stands for no class among integers that count from 0.
_NO_CLASS = -1
# Kinds of columns in which a word such as `nan` may stand for a label.
_OF_NAMES = ("text", "integer", "number", "labels")


@dataclass(frozen=True)
class Wishes:
    """What a user says of the data; None or empty: what it looks like.

    Attributes:
        text: the column of texts, or two of a pair.
        label: the column of labels, or those of 0 and 1.
        task: a name of `TASK_NAMES`, or `pairs`.
        split: the column of splits, or `draw`: draw them anew.
        separator: between the cells of a CSV file.
        labels: names of integer classes or tags in their order, or the set of labels.
        unlabelled: what becomes of rows without a label: transfer or leave_out.
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
    """A section `prepare`, without what is the same for all data.

    Attributes:
        task: what the model is to answer.
        section: its keys.
        why: the reason for the task.
        columns: all that the data has.
        notes: what else a user should know.
    """

    task: TaskKind
    section: dict[str, Any]
    why: str
    columns: dict[str, ColumnLook]
    notes: list[str] = field(default_factory=list)


def propose(looks: Sequence[TableLook], wishes: Wishes, where: str) -> Proposal:
    """Say what `prepare` is to do with the files that were looked at.

    Args:
        looks: at all files.
        wishes: what the user says.
        where: the data, for messages.

    Raises:
        ParamsError: it is not clear which columns or which task are meant, or the wishes contradict the data.
        MissingColumnError: a file lacks a column that is named.
        LabelError: rows without a label, and nothing says what becomes of them.
    """
    _check(wishes)
    columns = merge_columns(looks)
    _add_answers(columns, looks)
    by_column = [name for name in [_split_column(looks, wishes)] if name is not None]
    for name in (*wishes.text, *wishes.label, *by_column):
        _add_path(columns, looks, name)
    text = list(wishes.text) or choose_text(columns, where, [*wishes.label, *by_column])
    label = list(wishes.label) or choose_label(columns, where, [*text, *by_column])
    reading = _Reading(looks, columns, text, label, wishes, where)
    task, section, why = reading.task_section()
    unlabelled = reading.unlabelled(task)
    section = {
        "task": task,
        "tables": [_table(wishes)],
        "text": text[0] if len(text) == 1 else text,
        **section,
        **({} if unlabelled is None else {"unlabelled": unlabelled}),
    }
    notes = [*reading.notes, *_left_out(columns, {*text, *label, *by_column})]
    return Proposal(task, section, why, columns, notes)


def split_counts(looks: Sequence[TableLook], wishes: Wishes) -> tuple[Counter[str], str]:
    """Rows of each split that the data gives, `auto` for those without, and what gives it."""
    column = _split_column(looks, wishes)
    mode = "draw" if wishes.split == "draw" else "auto"
    counts = Counter(split for look in looks for split in given_splits(look.table, mode, column))
    by_name = mode == "auto" and any(look.table.split for look in looks)
    return counts, f"the column {column!r}" if column else "their names" if by_name else ""


def _split_column(looks: Sequence[TableLook], wishes: Wishes) -> str | None:
    if wishes.split is not None:
        return None if wishes.split == "draw" else wishes.split
    return next((look.split_column for look in looks if look.split_column is not None), None)


def _add_path(columns: dict[str, ColumnLook], looks: Sequence[TableLook], name: str) -> None:
    """Look at what a user names in every file: a column, or a dotted path into one."""
    found = [look.column(name) for look in looks]
    columns[name] = found[0]
    for other in found[1:]:
        columns[name] = merge(columns[name], other)


def _add_answers(columns: dict[str, ColumnLook], looks: Sequence[TableLook]) -> None:
    """SQuAD's answers as one column, where the looks have the paths into them."""
    for name in dict.fromkeys(name for look in looks for name in look.table.columns):
        if name in columns or name not in looks[0].table.columns or looks[0].column(name).kind != "answers":
            continue
        for path in [path for path in columns if path.startswith(f"{name}.")]:
            del columns[path]
        _add_path(columns, looks, name)


def _table(wishes: Wishes) -> dict[str, Any]:
    table: dict[str, Any] = {"source": "data"}
    if wishes.separator is not None:
        table["separator"] = wishes.separator
    if wishes.split is not None:
        table |= {"split": "draw"} if wishes.split == "draw" else {"split_column": wishes.split}
    return table


def _check(wishes: Wishes) -> None:
    """Refuse words that are none of those known."""
    for option, value, known in (
        ("--task", wishes.task, (*TASK_NAMES, "pairs")),
        ("--unlabelled", wishes.unlabelled, ("transfer", "leave_out")),
    ):
        if value is not None and value not in known:
            raise ParamsError(f"{option} {value!r} is not known; use {', '.join(known)}")
    if len(wishes.text) > 2:
        raise ParamsError(f"--text names {len(wishes.text)} columns; a text is one, a pair is two")


def _left_out(columns: Mapping[str, ColumnLook], used: set[str]) -> list[str]:
    """Columns that nothing reads."""
    left = [name for name, column in columns.items() if name not in used and column.kind != "empty"]
    return [f"not read: {', '.join(map(repr, left))}"] if left else []


class _Reading:
    """Tells the task from the columns of text and label."""

    def __init__(
        self,
        looks: Sequence[TableLook],
        columns: Mapping[str, ColumnLook],
        text: Sequence[str],
        label: Sequence[str],
        wishes: Wishes,
        where: str,
    ) -> None:
        self._tables: list[Table] = [look.table for look in looks]
        self._columns, self._text, self._wishes, self._where = columns, text, wishes, where
        self._labels = label
        self._label = columns[label[0]]
        self.notes: list[str] = []

    def task_section(self) -> tuple[TaskKind, dict[str, Any], str]:
        """The task, the keys of `prepare` that belong to it, and why."""
        wanted = None if self._wishes.task in (None, "pairs") else TASK_NAMES[str(self._wishes.task)]
        if self._wishes.task == "pairs" and len(self._text) != 2:
            raise ParamsError(f"{self._where}: --task pairs needs two columns of texts; name them: --text first,second")
        likely, why = self._likely()
        task = wanted or likely
        if wanted and wanted != likely:
            why = f"--task says so; it looks like {likely}: {why}"
        makers: Mapping[TaskKind, Callable[[], dict[str, Any]]] = {
            "single_label": self._single,
            "multi_label": self._several,
            "regression": self._number,
            "token_classification": self._entities,
            "question_answering": self._answers,
        }
        return task, makers[task](), why

    def _likely(self) -> tuple[TaskKind, str]:
        label, name = self._label, self._label.name
        if len(self._labels) > 1:
            return "multi_label", f"{len(self._labels)} columns of 0 and 1 are the labels"
        if label.kind == "answers":
            return "question_answering", f"{name!r} holds answers with their places in a context"
        if label.kind == "spans":
            return "token_classification", f"{name!r} holds places in the text"
        if self._columns[self._text[0]].kind == "words":
            return "token_classification", f"{self._text[0]!r} holds lists of words and {name!r} a tag for each"
        if label.several:
            return "multi_label", f"{label.several:,} cells of {name!r} hold several labels"
        if label.kind in ("integer", "number") and not label.class_names:
            return self._likely_of_numbers()
        separator = self._separator() if label.kind == "text" else None
        if separator is not None:
            return "multi_label", f"cells of {name!r} hold several names with {separator!r} between them"
        if label.kind == "labels":
            return "single_label", f"every list in {name!r} holds one label"
        return "single_label", f"{name!r} has {different(label):,} different names"

    def _likely_of_numbers(self) -> tuple[TaskKind, str]:
        label, count = self._label, different(self._label)
        if count > (_MOST_CLASSES if label.kind == "integer" else _MOST_FRACTIONS):
            return "regression", f"{label.name!r} has many different numbers (classes: --task single_label)"
        why = f"{label.name!r} has {count} different numbers"
        if count > 2:
            why += " taken for classes without an order (if near misses count for something: --task regression)"
        return "single_label", why

    # --- the section of each task ---

    def _single(self) -> dict[str, Any]:
        self._one_label_column("single_label")
        label = self._label
        if label.kind in ("spans", "answers", "object", "tags"):
            raise ParamsError(f"{self._where}: {in_words(label)} has no names of classes; name another with --label")
        if label.kind == "text" and (is_long_text(label) or different(label) > max(2, label.rows / 2)):
            raise ParamsError(
                f"{self._where}: {in_words(label)} of {label.rows:,} rows looks like texts, not like names of classes; "
                "name the label's column with --label"
            )
        return {"label": self._column(), "labels": self._label_set()}

    def _several(self) -> dict[str, Any]:
        if len(self._labels) > 1:
            return {"label": {"kind": "columns", "columns": list(self._labels)}, "labels": None}
        label = self._column()
        if self._label.kind == "text":
            label["separator"] = self._separator()
        if self._label.kind not in ("text", "labels") or label.get("separator", "") is None:
            raise ParamsError(
                f"{self._where}: no cell of {in_words(self._label)} holds several labels: it is no list, and none of "
                f"{' '.join(_SEPARATORS)} divides it; take --task single_label"
            )
        return {"label": label, "labels": self._label_set()}

    def _number(self) -> dict[str, Any]:
        self._one_label_column("regression")
        if self._label.kind not in ("integer", "number"):
            raise ParamsError(f"{self._where}: {in_words(self._label)} holds no numbers; take another --task")
        return {"label": {"kind": "number", "column": self._label.name}, "labels": None}

    def _entities(self) -> dict[str, Any]:
        self._one_label_column("token_classification")
        if self._label.kind == "spans":
            return {"label": {"kind": "spans", "column": self._label.name}, "labels": None}
        words = self._columns[self._text[0]]
        if words.kind != "words" or self._label.kind not in ("tags", "words", "labels"):
            raise ParamsError(
                f"{self._where}: entities need lists of words with lists of tags, or places in the text; "
                f"{in_words(words)} and {in_words(self._label)} are neither"
            )
        label: dict[str, Any] = {"kind": "tags", "column": self._label.name}
        tags = self._label.values or {}
        if tags and all(tag.isdecimal() for tag in tags) and not self._label.class_names:
            label["names"] = self._tag_names(max(map(int, tags)) + 1)
        if self._without_spaces():
            label["between"] = ""
        return {"label": label, "labels": None}

    def _tag_names(self, count: int) -> list[str]:
        if len(self._wishes.labels) < count:
            raise LabelError(
                f"{self._where}: the tags of {self._label.name!r} are integers up to {count - 1}, and the data does "
                f"not name them; give their {count} names in order: --labels O,B-PER,I-PER,..."
            )
        return list(self._wishes.labels)

    def _answers(self) -> dict[str, Any]:
        self._one_label_column("question_answering")
        if len(self._text) != 2:
            raise ParamsError(f"{self._where}: name the columns of question and context: --text question,context")
        if self._label.kind != "answers":
            raise ParamsError(
                f'{self._where}: answers have SQuAD\'s form, {{"text": ["Paris"], "answer_start": [17]}}; '
                f"{in_words(self._label)} has not"
            )
        return {"label": {"kind": "answers", "column": self._label.name}, "labels": None}

    # --- details ---

    def _one_label_column(self, task: TaskKind) -> None:
        if len(self._labels) > 1:
            raise ParamsError(f"{self._where}: {task} has one column of labels; name one with --label")

    def _column(self) -> dict[str, Any]:
        missing = {"missing": [_NO_CLASS]} if self._counts_from_minus_one() else {}
        return {"kind": "column", "column": self._label.name, **missing}

    def _label_set(self) -> list[str | int] | None:
        names = self._wishes.labels
        if not names:
            return None
        return [int(name) for name in names] if self._label.kind == "integer" else list(names)

    def _separator(self) -> str | None:
        """The sign between several labels: most names between such signs come again next to others."""
        whole = self._label.values or {}
        for sign in _SEPARATORS:
            parts = Counter(part for value in whole for part in {part.strip() for part in value.split(sign)} - {""})
            several = sum(count for value, count in whole.items() if sign in value)
            again = sum(cells > 1 for cells in parts.values())
            if several >= max(2, _SEPARATED * sum(whole.values())) and again >= len(parts) / 2:
                return sign
        return None

    def _without_spaces(self) -> bool:
        """Whether the words are characters of a script without spaces."""
        texts = values_of(self._tables, self._text[0])[:200]
        words = [str(word) for text in texts if isinstance(text, list) for word in text]
        return bool(words) and sum(len(word) == 1 and ord(word) > 0x2E80 for word in words) > len(words) / 2

    def unlabelled(self, task: TaskKind) -> str | None:
        """What becomes of rows without a label, where there are some.

        Raises:
            LabelError: there are such rows, and nothing says what becomes of them.
        """
        without = self._without_label(task)
        if not without:
            return None
        if self._wishes.unlabelled is None:
            raise LabelError(
                f"{self._where} has rows that no label can be learned from: {', '.join(without)}; say what becomes of "
                "them: --unlabelled transfer (the student learns what the teacher answers there) or leave_out"
            )
        become = "go to transfer" if self._wishes.unlabelled == "transfer" else "are left out"
        self.notes.append(f"rows that {become}: {', '.join(without)}")
        return self._wishes.unlabelled

    def _without_label(self, task: TaskKind) -> list[str]:
        """Rows that need a label and have none, by the reason."""
        found = []
        gaps = sum(self._columns[name].missing for name in self._labels)
        if task == "multi_label" and self._label.kind == "text":  # an empty cell there says that no label holds
            gaps = sum(value is None for value in values_of(self._tables, self._label.name))
        if gaps:
            found.append(f"{gaps:,} with an empty label")
        words = self._label.missing_words if self._label.kind in _OF_NAMES else 0
        if words and not MISSING_WORDS & set(self._wishes.labels):
            found.append(f"{words:,} with a word such as nan (if it is a class, list all with --labels)")
        if self._label.class_names and self._no_class_rows():
            self.notes.append(f"{self._no_class_rows():,} rows with the class -1 have no label: they go to transfer")
        elif task == "single_label" and self._counts_from_minus_one():
            names = ",".join(sorted(self._label.values or (), key=int))
            found.append(f"{self._no_class_rows():,} with the label -1 (if it is a class: --labels={names})")
        undecided = Counter(reason for table in self._tables for reason in table.undecided.values())
        return found + [f"{count:,} with {reason!r}" for reason, count in undecided.items()]

    def _no_class_rows(self) -> int:
        return (self._label.values or {}).get(str(_NO_CLASS), 0)

    def _counts_from_minus_one(self) -> bool:
        """Whether integer labels without names begin with -1 and 0, and nobody says that -1 is a class."""
        if self._label.kind != "integer" or self._wishes.labels or not self._no_class_rows():
            return False
        return sorted(map(int, self._label.values or {}))[:2] == [_NO_CLASS, 0]
