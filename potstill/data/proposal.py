"""What `prepare` is to do with the tables of a user: task, columns and splits, each with the reason.

Nothing is guessed where two readings are likely: then a sentence says what was seen and how to say which it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from potstill.config import TaskKind
from potstill.data.choosing import check_columns, choose_label, choose_text
from potstill.data.columns import Column, is_gap, is_number, labels_of, look_at, look_at_columns, values_of
from potstill.data.split_names import given_splits, split_column
from potstill.data.tabular import Table
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
_SEPARATORS = ("|", ";", ",", "/")
_SEPARATED = 0.02
# What stands for no class among integers that count from 0.
_NO_CLASS = -1


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
    columns: dict[str, Column]
    notes: list[str] = field(default_factory=list)


def propose(tables: Sequence[Table], wishes: Wishes, where: str) -> Proposal:
    """Look at the tables and say what `prepare` is to do with them.

    Args:
        tables: all files.
        wishes: what the user says.
        where: the data, for messages.

    Raises:
        ParamsError: it is not clear which columns or which task are meant, or the wishes contradict the data.
        MissingColumnError: no file has a column that is named.
        LabelError: rows without a label, and nothing says what becomes of them.
    """
    columns = look_at_columns(tables)
    _check_task(wishes.task)
    exists = {*columns, *(name for table in tables for name in table.names())}
    for names in (wishes.text, wishes.label, [wishes.split] if wishes.split not in (None, "draw") else []):
        check_columns(columns, [str(name) for name in names], exists, where)
    split = wishes.split if wishes.split != "draw" else None
    by_column = split or (split_column(tables[0]) if wishes.split is None else None)
    text = choose_text(columns, wishes.text, where, [*wishes.label, *filter(None, [by_column])])
    label = choose_label(columns, wishes.label, where, [*text, *filter(None, [by_column])])
    for name in [*text, *label]:
        if name not in columns:
            columns[name] = look_at(name, values_of(tables, name))
    reading = _Reading(tables, columns, text, label, wishes, where)
    task, section, why = reading.task_section()
    unlabelled = reading.unlabelled(task)
    if unlabelled is not None:
        section["unlabelled"] = unlabelled
    table: dict[str, Any] = {"source": "data"}
    if wishes.separator is not None:
        table["separator"] = wishes.separator
    if wishes.split is not None:
        table |= {"split": "draw"} if wishes.split == "draw" else {"split_column": wishes.split}
    section = {"task": task, "tables": [table], "text": text[0] if len(text) == 1 else text, **section}
    used = {*text, *label, *filter(None, [by_column])}
    return Proposal(task, section, why, columns, [*reading.notes, *_left_out(columns, used, wishes)])


def split_counts(tables: Sequence[Table], wishes: Wishes) -> tuple[Counter[str], str]:
    """Rows of each split that the data gives, `auto` for those without, and what gives it."""
    column = None if wishes.split == "draw" else wishes.split
    mode = "draw" if wishes.split == "draw" else "auto"
    counts = Counter(split for table in tables for split in given_splits(table, mode, column))
    by_column = column or (split_column(tables[0]) if mode == "auto" else None)
    by_name = any(table.split for table in tables)
    return counts, f"the column {by_column!r}" if by_column else "their names" if by_name else ""


def _check_task(task: str | None) -> None:
    if task is not None and task not in (*TASK_NAMES, "pairs"):
        raise ParamsError(f"--task {task!r} is no task; use {', '.join((*TASK_NAMES, 'pairs'))}")


def _left_out(columns: Mapping[str, Column], used: set[str], wishes: Wishes) -> list[str]:
    heads = {name.split(".")[0] for name in used}
    left = [name for name in columns if name not in used and name not in heads]
    said = []
    if not wishes.text or not wishes.label:
        said.append("text and label were not both named: look whether these are the right columns")
    if left:
        said.append(f"not read: {', '.join(map(repr, left))}")
    return said


class _Reading:
    """Tells the task from the columns of text and label."""

    def __init__(
        self,
        tables: Sequence[Table],
        columns: Mapping[str, Column],
        text: Sequence[str],
        label: Sequence[str],
        wishes: Wishes,
        where: str,
    ) -> None:
        self._tables, self._columns, self._text, self._wishes, self._where = tables, columns, text, wishes, where
        self._labels = label
        self._label = columns[label[0]]
        values = values_of(tables, label[0])
        self._values = [value for value in values if not is_gap(value)]
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
            return "multi_label", f"{len(self._labels)} columns of labels are named"
        if label.kind == "answers":
            return "question_answering", f"{name!r} holds answers with their places in a context"
        if label.kind == "marks":
            return "token_classification", f"{name!r} holds places in the text"
        if label.kind == "lists":
            return self._likely_of_lists()
        if label.kind == "numbers" and not label.class_names:
            return self._likely_of_numbers()
        if label.kind == "texts" and self._separator() is not None:
            return "multi_label", f"cells of {name!r} hold several names with {self._separator()!r} between them"
        kind = "named classes" if label.class_names else "different names"
        return "single_label", f"{name!r} has {len(label.class_names) or label.distinct:,} {kind}"

    def _likely_of_lists(self) -> tuple[TaskKind, str]:
        name = self._label.name
        if self._columns[self._text[0]].kind == "lists":
            return "token_classification", f"{self._text[0]!r} holds lists of words and {name!r} a tag for each"
        several = sum(len(self._names(value)) != 1 for value in self._values)
        if several:
            return "multi_label", f"{several:,} of {len(self._values):,} cells of {name!r} hold several labels or none"
        return "single_label", f"every list in {name!r} holds one label"

    def _likely_of_numbers(self) -> tuple[TaskKind, str]:
        label = self._label
        most = _MOST_CLASSES if label.integers else _MOST_FRACTIONS
        if label.distinct > most:
            return (
                "regression",
                f"{label.name!r} has {label.distinct:,} different numbers (classes: --task single_label)",
            )
        if label.distinct > 2:
            return "single_label", (
                f"{label.name!r} has {label.distinct} different numbers, taken for classes without an order "
                "(if they are grades, and near misses count for something: --task regression)"
            )
        return "single_label", f"{label.name!r} has {label.distinct} different numbers"

    # --- the section of each task ---

    def _single(self) -> dict[str, Any]:
        self._one_label_column("single_label")
        if self._label.kind == "texts" and self._label.distinct > max(2, len(self._values) // 2):
            raise ParamsError(
                f"{self._where}: {self._label.name!r} has {self._label.distinct:,} different values in "
                f"{len(self._values):,} rows, which look like texts, not classes; name the label's column with --label"
            )
        if self._label.kind == "lists" and self._columns[self._text[0]].kind == "lists":
            raise ParamsError(f"{self._where}: texts and labels are lists; use --task token_classification")
        return {"label": self._column(), "labels": self._label_set()}

    def _several(self) -> dict[str, Any]:
        if len(self._labels) > 1:
            return {"label": {"kind": "columns", "columns": list(self._labels)}, "labels": None}
        label = self._column()
        if self._label.kind == "texts":
            separator = self._separator()
            if separator is None:
                raise ParamsError(
                    f"{self._where}: no cell of {self._label.name!r} holds several labels: it is no list, and no sign "
                    f"of {' '.join(_SEPARATORS)} divides it; take --task single_label"
                )
            label["separator"] = separator
        elif self._label.kind == "numbers":
            raise ParamsError(f"{self._where}: {self._label.name!r} holds numbers, not several labels")
        return {"label": label, "labels": self._label_set()}

    def _number(self) -> dict[str, Any]:
        self._one_label_column("regression")
        odd = next((value for value in self._values if not is_number(value)), None)
        if odd is not None:
            raise LabelError(f"{self._where}: {str(odd)[:60]!r} in {self._label.name!r} is no number")
        return {"label": {"kind": "number", "column": self._label.name}, "labels": None}

    def _entities(self) -> dict[str, Any]:
        self._one_label_column("token_classification")
        if self._label.kind == "marks":
            return {"label": {"kind": "spans", "column": self._label.name}, "labels": None}
        words = self._columns[self._text[0]]
        if words.kind != "lists" or self._label.kind != "lists":
            raise ParamsError(
                f"{self._where}: entities need a column of lists of words with one of lists of tags, or places in the "
                f"text; {words} and {self._label} are neither"
            )
        label: dict[str, Any] = {"kind": "tags", "column": self._label.name}
        tags = {tag for value in self._values for tag in self._names(value)}
        if tags and all(map(is_number, tags)) and not self._label.class_names:
            label["names"] = self._tag_names(tags)
        if self._without_spaces():
            label["between"] = ""
        return {"label": label, "labels": None}

    def _tag_names(self, tags: set[Any]) -> list[str]:
        count = max(int(tag) for tag in tags) + 1
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
                f"{self._label} has not"
            )
        return {"label": {"kind": "answers", "column": self._label.name}, "labels": None}

    # --- details ---

    def _one_label_column(self, task: TaskKind) -> None:
        if len(self._labels) > 1:
            raise ParamsError(f"{self._where}: {task} has one column of labels; name one with --label")

    def _column(self) -> dict[str, Any]:
        return {"kind": "column", "column": self._label.name}

    def _label_set(self) -> list[str | int] | None:
        if not self._wishes.labels:
            return None
        if self._label.kind == "numbers" and all(map(is_number, self._wishes.labels)):
            return [int(name) for name in self._wishes.labels]
        return list(self._wishes.labels)

    def _names(self, value: Any) -> list[Any]:
        try:
            return labels_of(value)
        except ValueError as error:
            raise LabelError(f"{self._where}: {str(value)[:60]!r} in {self._label.name!r} {error}") from None

    def _separator(self) -> str | None:
        """The sign between several labels: parts of cells have to come again in others."""
        values = [str(value) for value in self._values]
        for sign in _SEPARATORS:
            several = [value for value in values if sign in value]
            parts = Counter(part.strip() for value in values for part in value.split(sign) if part.strip())
            whole = len(set(values))
            again = all(parts[part.strip()] > 1 for value in several for part in value.split(sign) if part.strip())
            if len(several) >= max(2, _SEPARATED * len(values)) and again and len(parts) < whole:
                return sign
        return None

    def _without_spaces(self) -> bool:
        """Whether the words are characters of a script without spaces."""
        words = [str(word) for value in values_of(self._tables, self._text[0])[:200] for word in self._names(value)]
        return bool(words) and sum(len(word) == 1 and ord(word) > 0x2E80 for word in words) > len(words) / 2

    def unlabelled(self, task: TaskKind) -> str | None:
        """What becomes of rows without a label, where there are some; of classes of a schema they learn unlabelled.

        Raises:
            LabelError: there are such rows, and nothing says what becomes of them.
        """
        undecided = Counter(reason for table in self._tables for reason in table.undecided.values())
        if self._label.class_names:
            unknown = sum(value == _NO_CLASS for value in self._values)
            if unknown:
                self.notes.append(f"{unknown:,} rows with the class -1 have no label: they go to transfer")
        elif task == "single_label" and self._label.integers and not self._wishes.labels:
            self._refuse_minus_one()
        gaps = sum(self._columns[name].gaps for name in self._labels)
        if task == "multi_label" and self._label.kind == "texts":  # an empty cell there says that no label holds
            gaps = sum(value is None for value in values_of(self._tables, self._label.name))
        found = [f"{count:,} marked {reason!r}" for reason, count in undecided.items()]
        found = [f"{gaps:,} without a label", *found] if gaps else found
        if not found:
            return None
        if self._wishes.unlabelled is None:
            raise LabelError(
                f"{self._where} has rows that no label is to be learned from: {', '.join(found)}; say what becomes of "
                "them: --unlabelled transfer (the student learns what the teacher answers there) or leave_out"
            )
        become = "go to transfer" if self._wishes.unlabelled == "transfer" else "are left out"
        self.notes.append(f"rows {', '.join(found)} {become}")
        return self._wishes.unlabelled

    def _refuse_minus_one(self) -> None:
        numbers = Counter(int(float(value)) for value in self._values if is_number(value))
        if numbers[_NO_CLASS] and min(numbers) == _NO_CLASS and 0 in numbers:
            names = ",".join(map(str, sorted(numbers)))
            raise LabelError(
                f"{self._where}: {numbers[_NO_CLASS]:,} rows have the label -1, which mostly stands for no label; if "
                f"it is a class, say --labels={names}, else replace it by an empty cell"
            )
