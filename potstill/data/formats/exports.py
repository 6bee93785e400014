"""Converts exports of annotation tools to plain columns.

Label Studio's JSON and Argilla's records become a column for each question, with the answer on which annotators agree.
Rows that are rejected, skipped or not agreed on stay, with the reason in `Table.undecided`. Params decide what happens
to them (`prepare.unlabelled`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from potstill.data.formats.cells import is_nested, parse_nested
from potstill.data.formats.tabular import Table
from potstill.errors import FormatError

_PRODIGY_ANSWERS = frozenset({"accept", "reject", "ignore"})
_PRODIGY_COLUMNS = frozenset({"accept", "spans", "label", "options", "_input_hash", "_task_hash", "_view_id"})
# The kinds of Label Studio's results that hold choices, and those that hold spans.
_CHOICES = ("choices", "taxonomy")
_SPANS = ("labels", "hypertextlabels")
_DISAGREEMENT = "annotators do not agree"


def recognise_export(table: Table) -> Table:
    """Recognise an annotation tool's export, and add its answers as columns. Other tables are returned unchanged.

    Raises:
        FormatError: an answer has another form than the tool gives it.
    """
    try:
        return _recognised(table)
    except (AttributeError, IndexError, TypeError) as error:
        raise FormatError(
            f"{table.location} looks like the export of an annotation tool, but an answer has another form ({error}); "
            "export it again, or give a column of texts and one of labels"
        ) from error


def _recognised(table: Table) -> Table:
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


def agreed_answer(answers: Iterable[Any]) -> tuple[Any, str]:
    """Find the answer that all annotators gave, and the reason if there is none. Without answers both are empty."""
    values = list(answers)
    if len({repr(_without_order(value)) for value in values}) > 1:
        return None, _DISAGREEMENT
    return (values[0], "") if values else (None, "")


def _without_order(answer: Any) -> Any:
    """Sort an answer of several items, so that their order does not matter."""
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
    if "spans" in columns:  # Accepting a text without a span says that there is none.
        pairs = zip(columns["spans"], answers, strict=True)
        columns["spans"] = [[] if spans is None and answer == "accept" else spans for spans, answer in pairs]
    return replace(table, columns=columns, tool="Prodigy", undecided=undecided).with_notes(note)


# --- doccano ----------------------------------------------------------------------------------------------------------


def _doccano(table: Table) -> Table:
    """Name the tool. doccano's columns can be read unchanged."""
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
    spans = {name for results in answers for result in results for name, value in result.items() if _is_spans(value)}
    rows: list[dict[str, Any]] = []
    undecided: dict[int, str] = {}
    for row, (data, results) in enumerate(zip(table.columns["data"], answers, strict=True)):
        values: dict[str, Any] = {}
        for name in dict.fromkeys([*(name for result in results for name in result), *(spans if results else ())]):
            # Marking no span says that there is none. Making no choice says nothing.
            annotated = (result.get(name, [] if name in spans else None) for result in results)
            values[name], reason = agreed_answer(value for value in annotated if value is not None)
            if reason:
                undecided[row] = reason
        fields = dict(data) if isinstance(data, Mapping) else {}
        answers_by_column = {f"annotations.{name}" if name in fields else name: value for name, value in values.items()}
        rows.append(fields | answers_by_column)
    return _with_rows(table, rows, undecided, "Label Studio")


def _is_finished(annotation: Any) -> bool:
    return (
        isinstance(annotation, Mapping)
        and not annotation.get("was_cancelled")
        and isinstance(annotation.get("result"), list)
    )


def _is_spans(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _results(results: Sequence[Any]) -> dict[str, Any]:
    """Map the questions of an annotation to their answers: a list of choices, a list of spans, or a number."""
    values: dict[str, Any] = {}
    for result in results:
        if not isinstance(result, Mapping) or not isinstance(result.get("value"), Mapping):
            continue
        name = str(result.get("from_name", "label"))
        kind = result.get("type")
        value = result["value"]
        if kind in _SPANS and "start" in value and "end" in value:
            kinds = _names(value, kind)
            span = [{"start": value["start"], "end": value["end"], "label": label} for label in kinds]
            values[name] = [*values.get(name, ()), *span]
        elif kind in _CHOICES:
            chosen = [item[-1] if isinstance(item, list) else item for item in _names(value, kind)]
            values[name] = [*values.get(name, ()), *chosen]
        elif kind in ("rating", "number"):
            values[name] = value.get(kind)
    return values


def _names(value: Mapping[str, Any], kind: str) -> list[Any]:
    names = value.get(kind) or []
    if not isinstance(names, list):
        raise TypeError(f"{kind} of {type(names).__name__}, not a list")
    return names


# --- Argilla ----------------------------------------------------------------------------------------------------------


def _argilla_records(table: Table) -> Table:
    """Read Argilla's records as JSON: fields, and a list of responses to each question."""
    rows: list[dict[str, Any]] = []
    undecided: dict[int, str] = {}
    for row, (fields, responses) in enumerate(zip(table.columns["fields"], table.columns["responses"], strict=True)):
        values = dict(fields) if isinstance(fields, Mapping) else {}
        for name, answers in (responses or {}).items() if isinstance(responses, Mapping) else ():
            value, reason = agreed_answer(_submitted(answers))
            values[f"responses.{name}" if name in values else name] = value
            if reason:
                undecided[row] = reason
        rows.append(values)
    return _with_rows(table, rows, undecided, "Argilla")


def _submitted(answers: Any) -> list[Any]:
    """List the values of submitted responses, without drafts and discarded ones."""
    items = answers if isinstance(answers, list) else []
    return [
        item["value"]
        for item in items
        if isinstance(item, Mapping)
        and item.get("value") is not None
        and item.get("status", "submitted") == "submitted"
    ]


def _argilla_flat(table: Table) -> Table:
    """Read Argilla's flattened export: `label.responses`, `label.responses.status`, `label.suggestion` and so on."""
    questions = [name.removesuffix(".responses") for name in table.columns if name.endswith(".responses")]
    columns = dict(table.columns)
    undecided: dict[int, str] = {}
    for name in questions:
        states = table.columns.get(f"{name}.responses.status", [None] * len(table))
        values = []
        for row, (answers, status) in enumerate(zip(table.columns[f"{name}.responses"], states, strict=True)):
            value, reason = agreed_answer(_submitted_values(parse_nested(answers), parse_nested(status)))
            values.append(value)
            if reason:
                undecided[row] = reason
        columns.setdefault(name, values)
    note = f"Argilla: the answers to {', '.join(questions)}"
    return replace(table, columns=columns, undecided=undecided, tool="Argilla").with_notes(note)


def _submitted_values(answers: Any, states: Any) -> list[Any]:
    if not isinstance(answers, list):
        return [] if answers is None else [answers]
    if not isinstance(states, list) or len(states) != len(answers):
        return [answer for answer in answers if answer is not None]
    return [answer for answer, status in zip(answers, states, strict=True) if status == "submitted"]


def _with_rows(table: Table, rows: Sequence[dict[str, Any]], undecided: Mapping[int, str], tool: str) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    other_columns = {
        name: values
        for name, values in table.columns.items()
        if name not in columns and not any(map(is_nested, values))
    }
    note = f"{tool}: columns {', '.join(names)}"
    if undecided:
        note += f"; {len(undecided):,} rows on which annotators do not agree"
    return replace(table, columns=columns | other_columns, undecided=undecided, tool=tool).with_notes(note)
