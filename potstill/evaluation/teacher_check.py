"""Checks on dev that a fine-tuned teacher fits the data.

Three kinds of teacher load without an error, and a student would learn noise from them: a teacher of something else,
one that was never trained, and one whose labels are in another order than params say. So a teacher's answers on dev
have to be above chance, and not better with the labels in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.offsets import IGNORED, flat_labels

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
# From this many standard errors above chance, answers count as above it (one-sided, 95%).
_ABOVE = 1.645
# Another order of the labels has to be better by this many (99%), on rows that did not choose it.
_BETTER = 2.326
# From this correlation on, numbers are reported to be on another scale.
_CORRELATED = 0.5


@dataclass(frozen=True)
class Verdict:
    """The verdict on a teacher by its answers on dev.

    Attributes:
        words: how well it answers, as a part of a sentence.
        chance: what chance reaches, as a part of a sentence.
        above_chance: whether it is above chance; None where dev is too small to tell even for a perfect teacher.
        order: for each of its outputs the index of the label that fits better; None where no other order does.
        better: how well it answers with that order, as a part of a sentence.
        weak: indices of labels of a multi_label task that it answers no better than chance.
    """

    words: str
    chance: str
    above_chance: bool | None
    order: tuple[int, ...] | None = None
    better: str = ""
    weak: tuple[int, ...] = ()


def judge(task: TaskKind, logits: Floats, labels: Any) -> Verdict | None:
    """Judge a teacher by its logits on dev; None for a task whose answers have no chance level.

    Args:
        task: the data's kind of task.
        logits: from `predict_logits`, in the data's order of the labels.
        labels: gold labels, from `TokenDataset.whole_labels`.
    """
    form = KINDS[task].form
    if form == "number":
        return _judge_numbers(logits[:, 0], np.asarray(labels, dtype=np.float64))
    if form == "labels":
        return _judge_labels(logits, np.asarray(labels))
    if form == "span":
        return None
    gold, answers = gold_and_answers(task, logits, labels)
    return _judge_classes(gold, answers, logits.shape[1], "tokens" if form == "entities" else "rows")


def gold_and_answers(task: TaskKind, logits: Floats, labels: Any) -> tuple[Ints, Ints]:
    """Return gold classes and the outputs with the largest logits, of texts or of their tokens."""
    answers = logits.argmax(axis=1)
    if KINDS[task].form != "entities":
        return np.asarray(labels), answers
    gold = flat_labels(labels)
    gold = gold[gold != IGNORED]
    return gold[gold >= 0], answers[gold >= 0]


def best_order(gold: Ints, answers: Ints, classes: int) -> list[int]:
    """Assign a label to each output, each label once, so that most answers are right; a tie keeps the output's index.

    Args:
        gold: [rows] labels.
        answers: [rows] outputs.
        classes: labels, and as many outputs.
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (answers, gold), 1.0)
    return _assign(counts)


def fitting_order(
    task: TaskKind, logits: Floats, labels: Any, guess: Sequence[int] | None = None
) -> tuple[list[int], float] | None:
    """Find labels for outputs whose names are not the data's, and the share of right answers with them.

    Args:
        task: single_label, multi_label or token_classification.
        logits: in the teacher's own order.
        labels: gold labels.
        guess: an order that the names suggest; it is taken if it is above chance.

    Returns:
        For each output the index of its label, and that share; None where dev supports no order.
    """
    order = None if guess is None else _confirmed_order(task, logits, labels, guess)
    multi_label = KINDS[task].form == "labels"
    if order is None:
        order = _best_label_order(logits, labels) if multi_label else _best_class_order(task, logits, labels)
    if order is None:
        return None
    reordered = logits[:, np.argsort(order)]
    if multi_label:
        return order, float(((reordered > 0) == np.asarray(labels)).mean())
    gold, answers = gold_and_answers(task, reordered, labels)
    return order, float((gold == answers).mean())


def _confirmed_order(task: TaskKind, logits: Floats, labels: Any, order: Sequence[int]) -> list[int] | None:
    """Return an order if the answers with it are above chance and not better with another; else None."""
    verdict = judge(task, logits[:, np.argsort(order)], labels)
    return [*order] if verdict is not None and verdict.above_chance and verdict.order is None else None


def _best_label_order(logits: Floats, labels: Any) -> list[int] | None:
    """Return the best order of a multi_label task's labels, if it is better than chance."""
    association = _association(logits, np.asarray(labels))
    order = _assign(association)
    return order if _pooled(association[range(len(order)), order]) > _BETTER else None


def _best_class_order(task: TaskKind, logits: Floats, labels: Any) -> list[int] | None:
    """Return the best order of the classes, if held-out answers under it are above chance."""
    gold, answers = gold_and_answers(task, logits, labels)
    classes = logits.shape[1]
    above = _above(gold, _held_out(gold, answers, classes), classes) > _ABOVE
    return best_order(gold, answers, classes) if above else None


# --- classes ----------------------------------------------------------------------------------------------------------


def _judge_classes(gold: Ints, answers: Ints, classes: int, unit: str) -> Verdict:
    rows = len(gold)
    right = int((gold == answers).sum())
    chance = float((_shares(gold, classes) * _shares(answers, classes)).sum())
    held_out = _held_out(gold, answers, classes)
    won = int(((held_out == gold) & (answers != gold)).sum())
    lost = int(((held_out != gold) & (answers == gold)).sum())
    order = best_order(gold, answers, classes)
    # A constant answer is right more often as the largest class, but that makes it no better: hence the second test.
    better = (won - lost) / max(won + lost, 1) ** 0.5 > _BETTER and _above(gold, held_out, classes) > _ABOVE
    return Verdict(
        f"right on {right} of the {rows} {unit} of dev ({right / rows:.1%})",
        f"{chance:.1%}",
        _is_above(_above(gold, answers, classes), _above(gold, gold, classes)),
        tuple(order) if better else None,
        f"{(np.array(order)[answers] == gold).mean():.1%}",
    )


def _above(gold: Ints, answers: Ints, classes: int) -> float:
    """Return by how many standard errors the number of right answers is above that of a random order of the answers.

    Mean and variance are those of a sum over a random permutation (Hoeffding 1951), which holds for unequal classes and
    for a teacher with a constant answer as well.
    """
    rows = len(gold)
    gold_shares = _shares(gold, classes)
    answer_shares = _shares(answers, classes)
    chance = float((gold_shares * answer_shares).sum())
    spread = np.eye(classes) - answer_shares[:, None] - gold_shares[None, :] + chance
    variance = rows * rows / max(rows - 1, 1) * float((gold_shares[:, None] * answer_shares[None, :] * spread**2).sum())
    excess = float((gold == answers).sum()) - rows * chance
    return 0.0 if variance < 1e-9 else excess / variance**0.5


def _held_out(gold: Ints, answers: Ints, classes: int) -> Ints:
    """Return the answers under the best order of the labels, each half of the rows under the other half's order."""
    reordered = answers.copy()
    for half in (0, 1):
        rows = np.arange(len(gold)) % 2 == half
        reordered[rows] = np.array(best_order(gold[~rows], answers[~rows], classes))[answers[rows]]
    return reordered


def _shares(values: Ints, classes: int) -> Floats:
    return np.bincount(values, minlength=classes) / max(len(values), 1)


def _assign(values: Floats) -> list[int]:
    """Assign to each row of a matrix a column of its own, with the largest sum; in a tie, the row's own index."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(values + 1e-6 * np.eye(len(values)), maximize=True)
    return [int(column) for column in columns]


def _is_above(errors: float, possible: float) -> bool | None:
    """Whether something is above chance; None where even perfect answers could not be."""
    return errors > _ABOVE if possible > _ABOVE else None


# --- labels of a multi_label task -------------------------------------------------------------------------------------


def _judge_labels(logits: Floats, gold: Ints) -> Verdict:
    from potstill.scores.metrics import micro_f1

    association = _association(logits, gold)
    reached = association.diagonal()
    possible = _association(gold.astype(np.float64), gold).diagonal()
    weak = tuple(int(label) for label in np.flatnonzero((reached <= _ABOVE) & (possible > _ABOVE)))
    order = _assign(association)
    gain, moved = (sum(values) for values in zip(*(_held_out_gain(logits, gold, half) for half in (0, 1)), strict=True))
    better = moved > 0 and gain / (2 * moved) ** 0.5 > _BETTER
    return Verdict(
        f"at a micro F1 of {micro_f1(gold, logits > 0):.1%} on the {len(gold)} rows of dev",
        "that of answers without a relation to the labels",
        _is_above(_pooled(reached), _pooled(possible)),
        tuple(order) if better else None,
        f"{micro_f1(gold, logits[:, np.argsort(order)] > 0):.1%}",
        weak,
    )


def _held_out_gain(logits: Floats, gold: Ints, half: int) -> tuple[float, int]:
    """Return what the other half's best order gains on this half, in standard errors, and how many labels it moves."""
    rows = np.arange(len(gold)) % 2 == half
    order = _assign(_association(logits[~rows], gold[~rows]))
    association = _association(logits[rows], gold[rows])
    moved = [output for output, label in enumerate(order) if output != label]
    return float(sum(association[output, order[output]] - association[output, output] for output in moved)), len(moved)


def _association(logits: Floats, gold: Ints) -> Floats:
    """Return [outputs, labels] by how many standard errors an output is higher where a label holds.

    Mann & Whitney 1947.
    """
    from scipy.stats import rankdata

    rows = len(gold)
    positives = gold.sum(axis=0)
    ranks = rankdata(logits, axis=0)
    sums = ranks.T @ gold - positives * (rows + 1) / 2
    spread = np.square(ranks - (rows + 1) / 2).sum(axis=0) / max(rows, 1)
    variance = spread[:, None] * (positives * (rows - positives) / max(rows - 1, 1))[None, :]
    association: Floats = np.divide(sums, np.sqrt(variance), out=np.zeros_like(sums), where=variance > 1e-9)
    return association


def _pooled(errors: Floats) -> float:
    """Combine standard scores into one (Stouffer 1949)."""
    return float(errors.sum() / max(len(errors), 1) ** 0.5)


# --- numbers ----------------------------------------------------------------------------------------------------------


def _judge_numbers(answers: Floats, gold: Floats) -> Verdict:
    from potstill.scores.numbers import correlation

    spread = (gold - gold.mean()) ** 2
    gains = spread - (gold - answers) ** 2
    r = correlation(answers, gold)
    scale = ""
    if r > _CORRELATED:
        slope, intercept = np.polyfit(answers, gold, 1)
        scale = f" (correlation {r:.2f}: dev is {slope:.3g} times its number {intercept:+.3g})"
    return Verdict(
        f"at an R² of {gains.mean() / max(spread.mean(), 1e-12):.2f} on the {len(gold)} rows of dev{scale}",
        "that of always saying dev's mean",
        _is_above(_mean_errors(gains), _mean_errors(spread)),
    )


def _mean_errors(values: Floats) -> float:
    """Return a mean in units of its standard error."""
    error = float(values.std()) / max(len(values) - 1, 1) ** 0.5
    mean = float(values.mean())
    return 0.0 if error < 1e-12 and mean <= 0 else mean / max(error, 1e-12)
