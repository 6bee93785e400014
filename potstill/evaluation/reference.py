"""The profile of the test split: the texts and answers that a service of the shipped model is compared with."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.summary import Gold
from potstill.inference.profile import Answer, Observation, Profile, build_profile
from potstill.inference.runtime import WINDOW, Student, Text
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.definitions.token_classification import Tagging
from potstill.labels.tags import entities_of, units_of
from potstill.scores.entities import tags_by_row
from potstill.scores.metrics import Doubles


def reference_profile(
    student: Student, texts: Sequence[Text], answers: Sequence[Answer], gold: Gold, candidate: str
) -> Profile:
    """Build the profile of a split.

    Args:
        student: the model that ships.
        texts: [rows].
        answers: [rows] its answers, from `answer_all`.
        gold: the gold labels.
        candidate: sum of the serving folder's manifest.
    """
    rows = zip(texts, _token_ids(student, texts), answers, strict=True)
    right = right_shares(answers, gold, student.card.labels)
    return build_profile([Observation(*row) for row in rows], student.card, student.tokenizer, candidate, right)


def right_shares(answers: Sequence[Any], gold: Gold, labels: Sequence[Any]) -> Doubles | None:
    """Return how much of each answer [rows] is right, in the terms of its confidence.

    None where confidences are not calibrated.

    A single label is right or wrong. Of several labels it is the share that is rightly given or not given; of entities
    the share of those found that are gold, NaN where none was found.
    """
    if isinstance(gold, GoldTags):
        return np.array([_precision(*pair) for pair in zip(answers, gold_entities(gold), strict=True)])
    if isinstance(gold, GoldAnswers) or (np.issubdtype(gold.dtype, np.floating) and gold.ndim == 1):
        return None
    if gold.ndim == 2:
        flags = np.array([[label in answer.label for label in labels] for answer in answers])
        return np.asarray((flags == gold.astype(bool)).mean(axis=1), dtype=np.float64)
    right = [answer.label == labels[index] for answer, index in zip(answers, gold.tolist(), strict=True)]
    return np.array(right, dtype=np.float64)


def gold_entities(gold: GoldTags) -> list[set[tuple[str, int, int]]]:
    """Return type, first character and the one after the last of each gold entity [rows]."""
    return [
        {(kind, units[first].start, units[last - 1].end) for kind, first, last in entities_of(tags)}
        for units, tags in zip(gold.units, tags_by_row(gold.classes, gold.lengths, gold.names), strict=True)
    ]


def _precision(answer: Tagging, gold: set[tuple[str, int, int]]) -> float:
    right = [(entity.type, entity.start, entity.end) in gold for entity in answer.entities]
    return sum(right) / len(right) if right else np.nan


def _token_ids(student: Student, texts: Sequence[Text]) -> Sequence[Sequence[int]]:
    rows: Any = texts
    if not KINDS[student.card.kind].marks_spans:
        parts = [rows[start : start + WINDOW] for start in range(0, len(rows), WINDOW)]
        # Packed, and a part at a time: an encoding takes kilobytes.
        return [array("i", row.ids) for part in parts for row in student.tokenizer.encode_batch_fast(list(part))]
    if student.card.form == "span":
        windows: Any = student.windows(rows)
    else:
        windows = student.text_windows(rows, [units_of(text) for text in rows])
    return [list(chain.from_iterable(window.ids for window in row)) for row in windows]
