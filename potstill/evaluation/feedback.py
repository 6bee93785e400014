"""How right a service was, once labels have arrived for some of its answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from potstill.config.base import TaskKind
from potstill.config.serving_params import Watch
from potstill.data.formats.cells import is_absent, is_nested, parsed
from potstill.data.formats.tables import read_file
from potstill.data.formats.tabular import Table
from potstill.data.label_cells import labels_in
from potstill.errors import EmptyDataError, FetchError, FormatError, LabelError, MissingColumnError
from potstill.evaluation.drift import CONFIDENCE, Estimate, estimate
from potstill.inference.profile import Moments, Profile
from potstill.inference.window_store import ANSWERS, Store, text_sha256
from potstill.labels.names import LabelNames, normal_label
from potstill.progress import say
from potstill.scores.statistics import wilson_interval

# What a label belongs to: a request and the place of the text in it, or the sum of the text.
Key = tuple[str, int] | str
# Tasks of which a profile has the names of the labels.
_NAMED = ("single_label", "token_classification")
REQUEST, POSITION, SUM, LABEL = "request_id", "position", "text_sha256", "label"


@dataclass(frozen=True)
class Measured:
    """How right the answers are that labels came for.

    Attributes:
        measure: `accuracy`, the share of answers that are right in all; of numbers `mean absolute error`.
        value: the measure.
        low: lower end of its interval: Wilson's of a share, else by the normal approximation.
        high: upper end.
        labels: labels that were given.
        matched: of them, those whose answer was found.
        estimate: what the same answers' confidences tell (`Estimate`); None where they are not calibrated.
        drifts: whether the whole interval is further below the accuracy on the test texts than is tolerated.
        sentence: all that in words.
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

    def to_json(self) -> dict[str, Any]:
        """`reports/feedback.json`."""
        return asdict(self)


def read_labels(path: Path, task: TaskKind) -> dict[Key, Any]:
    """The labels of a table in any form that `prepare` reads.

    Its columns: `label`, and either `request_id` (with `position` of the text in the request, 0 without),
    `text_sha256`, or `text` (of pairs also `text_pair`). The last of several labels for one answer counts.

    Raises:
        FetchError, FormatError, EncodingError, EmptyDataError, ...: the file cannot be read.
        MissingColumnError: it says no label, or not of what.
        LabelError: a label is none of that task.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise FetchError(f"{path} {state}; name a CSV, TSV, JSONL or Parquet file with labels")
    table = read_file(path)
    if LABEL not in table.columns:
        raise MissingColumnError(f"{path} has no column {LABEL!r}; it has {', '.join(map(repr, table.columns))}")
    keys = _keys(table)
    values = zip(keys, table.columns[LABEL], strict=True)
    return {key: _label(value, task, table.place(row)) for row, (key, value) in enumerate(values)}


def _keys(table: Table) -> list[Key]:
    columns = table.columns
    if REQUEST in columns:
        positions = columns.get(POSITION, [0] * len(table))
        try:
            return [(str(one), int(at)) for one, at in zip(columns[REQUEST], positions, strict=True)]
        except (TypeError, ValueError) as error:
            raise FormatError(f"{table.where}: {POSITION} has to be a whole number ({error})") from error
    if SUM in columns:
        return [str(value) for value in columns[SUM]]
    if "text" in columns:
        if "text_pair" in columns:
            return [text_sha256((str(a), str(b))) for a, b in zip(columns["text"], columns["text_pair"], strict=True)]
        return [text_sha256(str(text)) for text in columns["text"]]
    raise MissingColumnError(
        f"{table.where} does not say what its labels are of; it needs a column {REQUEST!r}, {SUM!r} or 'text'"
    )


def _label(value: Any, task: TaskKind, place: str) -> Any:
    """A label as the service writes it (`potstill.serving.watcher.said`), in a form that can be compared."""
    if is_absent(value) and task in ("single_label", "regression"):
        raise LabelError(f"{place} has no label; leave such rows out")
    try:
        if task == "single_label":
            return _single(value)
        if task == "regression":
            return float(value)
        return _comparable(_listed(value), task)
    except (TypeError, ValueError) as error:
        raise LabelError(f"{place}: {value!r:.100} is no label of {task} ({error})") from error


def _single(value: Any) -> str:
    """The name of a class; of a list of one, that one."""
    names = labels_in(parsed(value)) if is_nested(parsed(value)) else [value]
    if len(names) != 1:
        raise ValueError(f"{len(names)} labels")
    return normal_label(names[0])


def _listed(value: Any) -> Any:
    """What a cell of text holds: JSON, or a list or an object as Python writes it."""
    value = parsed(value)
    return json.loads(value) if isinstance(value, str) else value


def _comparable(value: Any, task: TaskKind) -> Any:
    if task == "single_label":
        return normal_label(value)
    if task == "regression":
        return float(value)
    if task == "multi_label":
        return frozenset(normal_label(label) for label in labels_in(value))
    if task == "token_classification":
        return frozenset((normal_label(kind), int(start), int(end)) for kind, start, end in value)
    if value is None:
        return None
    start, end = value
    return int(start), int(end)


def read_answers(store: Store) -> Iterator[dict[str, Any]]:
    """Read all answers that a service has written, oldest first.

    Damaged lines are left out and said, once for each file: they must not keep the others from being judged.
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
    """The answers of a file, and the numbers of its lines that are none."""
    answers, damaged = [], []
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
) -> Measured:
    """How right answers are.

    Args:
        labels: from `read_labels`.
        answers: from `read_answers`; the last to a text counts.
        profile: of the model.
        settings: what is tolerated.

    Raises:
        EmptyDataError: there is an answer for none of the labels.
        LabelError: the model has no such label.
    """
    labels = _models_labels(labels, profile)
    found: dict[Key, dict[str, Any]] = {}
    for answer in answers:
        keys: tuple[Key, Key] = (answer[REQUEST], answer[POSITION]), answer.get(SUM, "")
        found |= {key: answer for key in keys if key in labels}
    if not found:
        hint = " (texts are only found with watch.hash_texts)" if isinstance(next(iter(labels), ""), str) else ""
        raise EmptyDataError(f"none of the {len(labels):,} labels is of an answer that was kept{hint}")
    task = profile.task
    if task == "multi_label":
        labels = _as_answered(labels, list(found.values()))
    pairs = [(_comparable(answer[LABEL], task), labels[key]) for key, answer in found.items()]
    if task == "regression":
        return _errors(np.array([abs(a - b) for a, b in pairs]), len(labels))
    return _shares([a == b for a, b in pairs], list(found.values()), len(labels), profile, settings)


def _models_labels(labels: Mapping[Key, Any], profile: Profile) -> dict[Key, Any]:
    """Labels by the names that the model has for them, letter case aside where that is one of its labels.

    Of several labels a profile does not have the names, so those are only compared.

    Raises:
        LabelError: the model has no such label; each is named.
    """
    known = profile.features["label"].names if profile.task in _NAMED else []
    if not known:
        return dict(labels)
    names = LabelNames(known)
    unknown: Counter[str] = Counter()

    def named(name: str) -> str:
        label = names.find(name)
        unknown.update([name] if label is None else [])
        return normal_label(label)

    result: dict[Key, Any] = {
        key: named(value)
        if profile.task == "single_label"
        else frozenset((named(kind), start, end) for kind, start, end in value)
        for key, value in labels.items()
    }
    if unknown:
        told = ", ".join(f"{name!r} ({count:,} times{_guess(names, name)})" for name, count in unknown.most_common(5))
        raise LabelError(f"the model does not have the label {told}; it has {', '.join(known[:20])}: correct the file")
    return result


def _as_answered(labels: Mapping[Key, Any], answers: Sequence[Mapping[str, Any]]) -> dict[Key, Any]:
    """Several labels each by the names in the answers, letter case aside where that is one of them."""
    names = LabelNames(sorted({normal_label(name) for answer in answers for name in answer[LABEL]}))
    return {key: frozenset(str(names.find(name) or name) for name in held) for key, held in labels.items()}


def _guess(names: LabelNames, name: str) -> str:
    near = names.near(name)
    return f"; did you mean {near!r}?" if near else ""


def _shares(
    right: Sequence[bool], answers: Sequence[Mapping[str, Any]], labels: int, profile: Profile, settings: Watch
) -> Measured:
    value, matched = sum(right) / len(right), len(right)
    low, high = wilson_interval(sum(right), matched, CONFIDENCE)
    words = f"accuracy {100 * value:.1f}% ({100 * low:.1f}–{100 * high:.1f}) on {matched:,} of {labels:,} labels"
    if profile.task != "single_label" or profile.right is None:  # elsewhere confidences are of parts of an answer
        return Measured("accuracy", value, low, high, labels, matched, None, False, words)
    sure = np.array([answer["confidence"] for answer in answers])
    guess, drop = estimate(profile, Moments().with_values(sure), None), settings.max_accuracy_drop
    tested = profile.right.share.mean
    drifts = drop is not None and high < tested - drop
    words += f"; {100 * tested:.1f}% on test"
    if guess is not None:
        words += f", estimated without labels {100 * guess.accuracy:.1f}%"
    return Measured("accuracy", value, low, high, labels, matched, guess, drifts, words)


def _errors(errors: np.typing.NDArray[np.float64], labels: int) -> Measured:
    value, matched = float(errors.mean()), len(errors)
    spread = float(errors.std(ddof=1)) if matched > 1 else 0.0
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * spread / sqrt(matched)
    low, high = max(value - half, 0.0), value + half
    words = f"mean absolute error {value:.4g} ({low:.4g}–{high:.4g}) on {matched:,} of {labels:,} labels"
    return Measured("mean absolute error", value, low, high, labels, matched, None, False, words)
