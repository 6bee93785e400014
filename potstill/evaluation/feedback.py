"""Feedback: how often a service was right, once labels have arrived for some of its answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from potstill.config.serving_params import Watch
from potstill.data.cleaning import without_surrogates
from potstill.data.formats.cells import is_absent, is_nested, parse_nested
from potstill.data.formats.tables import read_file
from potstill.data.formats.tabular import Table
from potstill.data.label_cells import labels_in
from potstill.errors import EmptyDataError, FetchError, FormatError, LabelError, MissingColumnError
from potstill.evaluation.drift import CONFIDENCE, Estimate, estimate
from potstill.inference.profile import Moments, Profile
from potstill.inference.window_store import ANSWERS, Store, text_sha256
from potstill.kinds.definitions.kind import Form
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.names import LabelNames, normal_label
from potstill.progress import say
from potstill.scores.statistics import wilson_interval

# What a label belongs to: a request with the position of the text in it, or the sum of the text.
Key = tuple[str, int] | str
# Forms of answers whose profiles have the names of the labels.
_NAMED = ("class", "entities")
# Columns of the labels, and keys of an answer.
REQUEST = "request_id"
POSITION = "position"
SUM = "text_sha256"
LABEL = "label"


@dataclass(frozen=True)
class Measurement:
    """How right the answers are for which labels have arrived, as `reports/feedback.json` holds it.

    Attributes:
        measure: `accuracy`, the share of answers that are wholly right; of numbers `mean absolute error`.
        value: the value of the measure.
        low: lower end of its interval: Wilson's for a share, else by the normal approximation.
        high: upper end.
        labels: how many labels were given.
        matched: how many of them belong to an answer that was kept.
        estimate: the accuracy by the same answers' confidences; None where they are not calibrated.
        drifts: whether the whole interval is further below the accuracy on the test texts than is tolerated.
        sentence: all of it in words.
    """

    measure: str
    value: float
    low: float
    high: float
    labels: int
    matched: int
    estimate: Estimate | None
    drifts: bool
    sentence: str


def read_labels(path: Path, task: TaskKind) -> dict[Key, Any]:
    """Read labels from a table in any form that `prepare` reads.

    Its columns are `label`, and either `request_id` (with `position`, the index of the text in the request, by default
    0), `text_sha256`, or `text` (for pairs also `text_pair`). Of several labels for one answer the last counts.

    Raises:
        FetchError, FormatError, EncodingError, EmptyDataError, ...: the file cannot be read.
        MissingColumnError: it has no column of labels, or none that says which answer a label belongs to.
        LabelError: a label does not fit the task.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise FetchError(f"{path} {state}; name a CSV, TSV, JSONL or Parquet file with labels")
    table = read_file(path)
    if LABEL not in table.columns:
        raise MissingColumnError(f"{path} has no column {LABEL!r}; it has {', '.join(map(repr, table.columns))}")
    keys = _keys(table)
    values = zip(keys, table.columns[LABEL], strict=True)
    return {key: _parse_label(value, task, table.row_location(row)) for row, (key, value) in enumerate(values)}


def _keys(table: Table) -> list[Key]:
    columns = table.columns
    if REQUEST in columns:
        positions = columns.get(POSITION, [0] * len(table))
        try:
            return [
                (str(request), int(position)) for request, position in zip(columns[REQUEST], positions, strict=True)
            ]
        except (TypeError, ValueError, OverflowError) as error:
            raise FormatError(f"{table.location}: {POSITION} has to be a whole number ({error})") from error
    if SUM in columns:
        return [str(value) for value in columns[SUM]]
    if "text" in columns:
        if "text_pair" in columns:
            pairs = zip(columns["text"], columns["text_pair"], strict=True)
            return [text_sha256((without_surrogates(str(a)), without_surrogates(str(b)))) for a, b in pairs]
        return [text_sha256(without_surrogates(str(text))) for text in columns["text"]]
    raise MissingColumnError(
        f"{table.location} does not say what its labels are of; it needs a column {REQUEST!r}, {SUM!r} or 'text'"
    )


def _parse_label(value: Any, task: TaskKind, where: str) -> Any:
    """Parse a label as the service writes it (`potstill.serving.watcher.said`), to a form that can be compared."""
    form = KINDS[task].form
    if is_absent(value) and form in ("class", "number"):
        raise LabelError(f"{where} has no label; leave such rows out")
    try:
        if form == "class":
            return _class_name(value)
        if form == "number":
            return _finite(value)
        return _comparable(_parse_cell(value), form)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelError(f"{where}: {value!r:.100} is no label of {task} ({error})") from error


def _finite(value: Any) -> float:
    number = float(value)
    if not isfinite(number):
        raise ValueError("it is not finite")
    return number


def _class_name(value: Any) -> str:
    """Return the name of a class, which may also be given as a list of one name."""
    names = labels_in(parse_nested(value)) if is_nested(parse_nested(value)) else [value]
    if len(names) != 1:
        raise ValueError(f"{len(names)} labels")
    return normal_label(names[0])


def _parse_cell(value: Any) -> Any:
    """Parse a cell of text: JSON, or a list or an object as Python writes it."""
    value = parse_nested(value)
    return json.loads(value) if isinstance(value, str) else value


def _comparable(value: Any, form: Form) -> Any:
    """Bring a label or an answer to a form in which equal ones are equal values."""
    if form == "class":
        return normal_label(value)
    if form == "number":
        return float(value)
    if form == "labels":
        return frozenset(normal_label(label) for label in labels_in(value))
    if form == "entities":
        return frozenset((normal_label(kind), int(start), int(end)) for kind, start, end in value)
    if value is None:
        return None
    start, end = value
    return int(start), int(end)


def read_answers(store: Store) -> Iterator[dict[str, Any]]:
    """Read all answers that a service has written, oldest first.

    Damaged lines are left out and reported once for each file: they must not keep the others from being judged.
    """
    for name in store.names():
        if not name.endswith(ANSWERS):
            continue
        try:
            answers, damaged = _answers(store, name)
        except (OSError, UnicodeDecodeError) as error:
            say(f"{store}/{name} cannot be read ({error}) and is left out")
            continue
        if damaged:
            say(f"{store}/{name}: {len(damaged)} lines are no answer and are left out, the first is {damaged[0]}")
        yield from answers


def _answers(store: Store, name: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the answers of a file, and the numbers of its lines that are none."""
    answers = []
    damaged = []
    for number, line in enumerate(store.read(name).splitlines(), start=1):
        try:
            answer = json.loads(line)
            _ = answer[REQUEST], answer[POSITION], answer[LABEL]
        except (ValueError, KeyError, TypeError):
            damaged.append(number)
        else:
            answers.append(answer)
    return answers, damaged


def measure(
    labels: Mapping[Key, Any], answers: Iterator[dict[str, Any]], profile: Profile, settings: Watch
) -> Measurement:
    """Compare the answers with labels.

    Args:
        labels: from `read_labels`.
        answers: from `read_answers`; of several to one text the last counts.
        profile: the model's profile.
        settings: the tolerated drop.

    Raises:
        EmptyDataError: no label belongs to an answer.
        LabelError: the model does not have a label.
    """
    labels = _match_model_labels(labels, profile)
    labelled: dict[Key, dict[str, Any]] = {}
    for answer in answers:
        keys: tuple[Key, Key] = (answer[REQUEST], answer[POSITION]), answer.get(SUM, "")
        labelled |= {key: answer for key in keys if key in labels}
    if not labelled:
        hint = " (texts are only found with watch.hash_texts)" if isinstance(next(iter(labels), ""), str) else ""
        raise EmptyDataError(f"none of the {len(labels):,} labels is of an answer that was kept{hint}")
    form = KINDS[profile.task].form
    if form == "labels":
        labels = _match_answered_labels(labels, list(labelled.values()))
    pairs = [(_comparable(answer[LABEL], form), labels[key]) for key, answer in labelled.items()]
    if form == "number":
        return _measure_error(np.array([abs(a - b) for a, b in pairs]), len(labels))
    return _measure_accuracy([a == b for a, b in pairs], list(labelled.values()), len(labels), profile, settings)


def _match_model_labels(labels: Mapping[Key, Any], profile: Profile) -> dict[Key, Any]:
    """Replace names of labels by the model's own, where they differ in letter case.

    A profile of a multi_label task has no names; its labels stay as they are.

    Raises:
        LabelError: the model does not have a label; each is named.
    """
    form = KINDS[profile.task].form
    model_labels = profile.features["label"].names if form in _NAMED else []
    if not model_labels:
        return dict(labels)
    names = LabelNames(model_labels)
    unknown: Counter[str] = Counter()

    def match(name: str) -> str:
        label = names.find(name)
        unknown.update([name] if label is None else [])
        return normal_label(label)

    matched: dict[Key, Any] = {
        key: match(value) if form == "class" else frozenset((match(kind), start, end) for kind, start, end in value)
        for key, value in labels.items()
    }
    if unknown:
        named = ", ".join(
            f"{name!r} ({count:,} times{_suggestion(names, name)})" for name, count in unknown.most_common(5)
        )
        raise LabelError(
            f"the model does not have the label {named}; it has {', '.join(model_labels[:20])}: correct the file"
        )
    return matched


def _match_answered_labels(labels: Mapping[Key, Any], answers: Sequence[Mapping[str, Any]]) -> dict[Key, Any]:
    """Replace names of a multi_label task's labels by those in the answers, where they differ in letter case."""
    names = LabelNames(sorted({normal_label(name) for answer in answers for name in answer[LABEL]}))
    return {key: frozenset(str(names.find(name) or name) for name in values) for key, values in labels.items()}


def _suggestion(names: LabelNames, name: str) -> str:
    near = names.near(name)
    return f"; did you mean {near!r}?" if near else ""


def _measure_accuracy(
    right: Sequence[bool], answers: Sequence[Mapping[str, Any]], labels: int, profile: Profile, settings: Watch
) -> Measurement:
    matched = len(right)
    value = sum(right) / matched
    low, high = wilson_interval(sum(right), matched, CONFIDENCE)
    words = f"accuracy {100 * value:.1f}% ({100 * low:.1f}–{100 * high:.1f}) on {matched:,} of {labels:,} labels"
    if (
        KINDS[profile.task].form != "class" or profile.right is None
    ):  # other tasks have confidences of parts of an answer
        return Measurement("accuracy", value, low, high, labels, matched, None, False, words)
    confidences = np.array([answer["confidence"] for answer in answers])
    unlabelled = estimate(profile, Moments().with_values(confidences), None)
    tested = profile.right.share.mean
    drop = settings.max_accuracy_drop
    drifts = drop is not None and high < tested - drop
    words += f"; {100 * tested:.1f}% on test"
    if unlabelled is not None:
        words += f", estimated without labels {100 * unlabelled.accuracy:.1f}%"
    return Measurement("accuracy", value, low, high, labels, matched, unlabelled, drifts, words)


def _measure_error(errors: np.typing.NDArray[np.float64], labels: int) -> Measurement:
    matched = len(errors)
    value = float(errors.mean())
    spread = float(errors.std(ddof=1)) if matched > 1 else 0.0
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * spread / sqrt(matched)
    low = max(value - half, 0.0)
    high = value + half
    words = f"mean absolute error {value:.4g} ({low:.4g}–{high:.4g}) on {matched:,} of {labels:,} labels"
    return Measurement("mean absolute error", value, low, high, labels, matched, None, False, words)
