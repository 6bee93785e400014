"""Exports of annotation tools: what a table of theirs says, as plain columns.

Label Studio's JSON and Argilla's records are taken apart into a column for each question, with the answer on which
people agree. Rows that a tool marks as rejected, skipped or not agreed on stay, with the reason in `Table.undecided`;
params decide what becomes of them (`prepare.unlabelled`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from potstill.data.formats.cells import is_nested, parsed
from potstill.data.formats.tabular import Table

_PRODIGY_ANSWERS = frozenset({"accept", "reject", "ignore"})
_PRODIGY_COLUMNS = frozenset({"accept", "spans", "label", "options", "_input_hash", "_task_hash", "_view_id"})
# What Label Studio's results of each kind hold, and how it becomes a value.
_CHOICES, _LABELS = ("choices", "taxonomy"), ("labels", "hypertextlabels")
_NO_ANSWER = "annotators do not agree"


def recognise(table: Table) -> Table:
    """A table, or if it is an annotation tool's export the same with that tool's answers as columns."""
    columns = table.columns
    if _is_label_studio(columns):
        return _label_studio(table)
    if _is_prodigy(columns):
        return _prodigy(table)
    if "responses" in columns and "fields" in columns:
        return _argilla_records(table)
    if any(name.endswith(".responses") for name in columns):
        return _argilla_flat(table)
    return _doccano(table)


def agreed(answers: Iterable[Any]) -> tuple[Any, str]:
    """The answer that all gave, and why there is none: an empty text where there is one, or where nobody answered."""
    given = list(answers)
    different = {repr(_plain(answer)) for answer in given}
    if len(different) > 1:
        return None, _NO_ANSWER
    return (given[0], "") if given else (None, "")


def _plain(answer: Any) -> Any:
    """An answer in a form in which the order of several does not matter."""
    return sorted(map(repr, answer)) if isinstance(answer, list) else answer


# --- Prodigy ----------------------------------------------------------------------------------------------------------


def _is_prodigy(columns: Mapping[str, Sequence[Any]]) -> bool:
    answers = {value for value in columns.get("answer", ()) if isinstance(value, str)}
    return bool(answers) and answers <= _PRODIGY_ANSWERS and not _PRODIGY_COLUMNS.isdisjoint(columns)


def _prodigy(table: Table) -> Table:
    answers = table.columns["answer"]
    undecided = {row: f"answer: {answer}" for row, answer in enumerate(answers) if answer in ("reject", "ignore")}
    counts = Counter(str(answer) for answer in answers)
    note = "Prodigy: " + ", ".join(f"{count:,} with answer {answer}" for answer, count in sorted(counts.items()))
    columns = dict(table.columns)
    if "spans" in columns:  # who accepts a text without a span says that there is none
        pairs = zip(columns["spans"], answers, strict=True)
        columns["spans"] = [[] if spans is None and answer == "accept" else spans for spans, answer in pairs]
    return replace(table, columns=columns, tool="Prodigy", undecided=undecided).noted(note)


# --- doccano ----------------------------------------------------------------------------------------------------------


def _doccano(table: Table) -> Table:
    """doccano's own columns can be read as they are; the table only gets its name."""
    entities = [value for value in table.columns.get("entities", ())[:100] if isinstance(value, list) and value]
    if any(isinstance(item, Mapping) and "start_offset" in item for value in entities for item in value):
        return replace(table, tool="doccano")
    labels = table.columns.get("label", table.columns.get("labels", []))[:100]
    if "text" in table.columns and "id" in table.columns and labels and all(isinstance(item, list) for item in labels):
        return replace(table, tool="doccano")
    return table


# --- Label Studio -----------------------------------------------------------------------------------------------------


def _is_label_studio(columns: Mapping[str, Sequence[Any]]) -> bool:
    tasks = columns.get("annotations", columns.get("completions", ()))
    return "data" in columns and any(
        isinstance(item, Mapping) and "result" in item for task in tasks if isinstance(task, list) for item in task
    )


def _label_studio(table: Table) -> Table:
    tasks = table.columns.get("annotations", table.columns.get("completions", []))
    answers = [[_results(item["result"]) for item in task or () if _is_finished(item)] for task in tasks]
    spans = {name for given in answers for result in given for name, value in result.items() if _is_spans(value)}
    rows: list[dict[str, Any]] = []
    undecided: dict[int, str] = {}
    for row, (data, given) in enumerate(zip(table.columns["data"], answers, strict=True)):
        values: dict[str, Any] = {}
        for name in dict.fromkeys([*(name for result in given for name in result), *(spans if given else ())]):
            # Who marks no span says that there is none; who makes no choice says nothing.
            told = (result.get(name, [] if name in spans else None) for result in given)
            values[name], reason = agreed(value for value in told if value is not None)
            if reason:
                undecided[row] = reason
        plain = dict(data) if isinstance(data, Mapping) else {}
        rows.append(plain | {f"annotations.{name}" if name in plain else name: at for name, at in values.items()})
    return _taken_apart(table, rows, undecided, "Label Studio")


def _is_finished(annotation: Any) -> bool:
    return (
        isinstance(annotation, Mapping)
        and not annotation.get("was_cancelled")
        and isinstance(annotation.get("result"), list)
    )


def _is_spans(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _results(results: Sequence[Any]) -> dict[str, Any]:
    """Question -> answer of one annotation: a list of choices, a list of spans, or a number or text."""
    values: dict[str, Any] = {}
    for result in results:
        if not isinstance(result, Mapping) or not isinstance(result.get("value"), Mapping):
            continue
        name, kind, value = str(result.get("from_name", "label")), result.get("type"), result["value"]
        if kind in _LABELS and "start" in value and "end" in value:
            kinds = value.get(kind) or ()
            span = [{"start": value["start"], "end": value["end"], "label": label} for label in kinds]
            values[name] = [*values.get(name, ()), *span]
        elif kind in _CHOICES:
            chosen = value.get(kind) or ()
            values[name] = [*values.get(name, ()), *(item[-1] if isinstance(item, list) else item for item in chosen)]
        elif kind in ("rating", "number"):
            values[name] = value.get(kind)
    return values


# --- Argilla ----------------------------------------------------------------------------------------------------------


def _argilla_records(table: Table) -> Table:
    """Argilla's records as JSON: fields, and for each question a list of responses."""
    rows: list[dict[str, Any]] = []
    undecided: dict[int, str] = {}
    for row, (fields, responses) in enumerate(zip(table.columns["fields"], table.columns["responses"], strict=True)):
        values = dict(fields) if isinstance(fields, Mapping) else {}
        for name, answers in (responses or {}).items() if isinstance(responses, Mapping) else ():
            value, reason = agreed(_submitted(answers))
            values[f"responses.{name}" if name in values else name] = value
            if reason:
                undecided[row] = reason
        rows.append(values)
    return _taken_apart(table, rows, undecided, "Argilla")


def _submitted(answers: Any) -> list[Any]:
    """The values of responses that were sent in, neither drafts nor discarded."""
    items = answers if isinstance(answers, list) else []
    return [
        item["value"]
        for item in items
        if isinstance(item, Mapping)
        and item.get("value") is not None
        and item.get("status", "submitted") == "submitted"
    ]


def _argilla_flat(table: Table) -> Table:
    """Argilla's flattened export: `label.responses`, `label.responses.status`, `label.suggestion` and so on."""
    questions = [name.removesuffix(".responses") for name in table.columns if name.endswith(".responses")]
    columns = dict(table.columns)
    undecided: dict[int, str] = {}
    for name in questions:
        states = table.columns.get(f"{name}.responses.status", [None] * len(table))
        values = []
        for row, (answers, status) in enumerate(zip(table.columns[f"{name}.responses"], states, strict=True)):
            value, reason = agreed(_sent(parsed(answers), parsed(status)))
            values.append(value)
            if reason:
                undecided[row] = reason
        columns.setdefault(name, values)
    note = f"Argilla: the answers to {', '.join(questions)}"
    return replace(table, columns=columns, undecided=undecided, tool="Argilla").noted(note)


def _sent(answers: Any, states: Any) -> list[Any]:
    if not isinstance(answers, list):
        return [] if answers is None else [answers]
    if not isinstance(states, list) or len(states) != len(answers):
        return [answer for answer in answers if answer is not None]
    return [answer for answer, status in zip(answers, states, strict=True) if status == "submitted"]


def _taken_apart(table: Table, rows: Sequence[dict[str, Any]], undecided: Mapping[int, str], tool: str) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    kept = {
        name: values
        for name, values in table.columns.items()
        if name not in columns and not any(map(is_nested, values))
    }
    note = f"{tool}: columns {', '.join(names)}"
    if undecided:
        note += f"; {len(undecided):,} rows on which annotators do not agree"
    return replace(table, columns=columns | kept, undecided=undecided, tool=tool).noted(note)
