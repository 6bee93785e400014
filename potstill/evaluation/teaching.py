"""Whether a fine-tuned teacher's answers are about the data, by its answers on dev.

A teacher of something else, one that was never trained, and one whose labels are in another order than they are taken
in: each loads without an error, and a student would learn noise from it. So a teacher's answers on dev have to be above
chance, and not better with the labels in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.config.base import TaskKind
from potstill.data.tokens.offsets import IGNORED, flat_labels

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
# Standard errors above chance from which an answer counts as above it (one-sided, 95%), and those by which another
# order of the labels has to be better (99%), on rows that did not choose it.
_ABOVE, _BETTER = 1.645, 2.326
# The correlation of numbers from which they are said to be on another scale.
_LIKE = 0.5


@dataclass(frozen=True)
class Verdict:
    """What dev says of a teacher.

    Attributes:
        words: how well it answers, for a sentence.
        chance: what chance reaches, for a sentence.
        above_chance: whether it is above chance; None: dev is too small to tell, even of a teacher without a fault.
        order: for each of its outputs the index of our label that fits better; None: no other order does.
        better: how well it answers with that order, for a sentence.
        weak: indices of labels that it does not tell from chance, of several.
    """

    words: str
    chance: str
    above_chance: bool | None
    order: tuple[int, ...] | None = None
    better: str = ""
    weak: tuple[int, ...] = ()


def judge(task: TaskKind, logits: Floats, labels: Any) -> Verdict | None:
    """Judge a teacher by its logits on dev; None: of a task whose answers have no chance level here.

    Args:
        task: of the data.
        logits: as `predict_logits` gives them, in our order of the labels.
        labels: gold, as `TokenDataset.whole_labels` has them.
    """
    if task == "regression":
        return _judge_numbers(logits[:, 0], np.asarray(labels, dtype=np.float64))
    if task == "multi_label":
        return _judge_several(logits, np.asarray(labels))
    if task == "question_answering":
        return None
    gold, answers = classes_of(task, logits, labels)
    return _judge_classes(gold, answers, logits.shape[1], "tokens" if task == "token_classification" else "rows")


def classes_of(task: TaskKind, logits: Floats, labels: Any) -> tuple[Ints, Ints]:
    """Gold classes and the outputs with the largest logits, of texts or of their tokens."""
    answers = logits.argmax(axis=1)
    if task != "token_classification":
        return np.asarray(labels), answers
    gold = flat_labels(labels)
    gold = gold[gold != IGNORED]
    return gold[gold >= 0], answers[gold >= 0]


def best_order(gold: Ints, answers: Ints, classes: int) -> list[int]:
    """For each output the label that makes most answers right, each label once; where it is all the same, its own.

    Args:
        gold: [rows] labels.
        answers: [rows] outputs.
        classes: labels, and as many outputs.
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (answers, gold), 1.0)
    return _assigned(counts)


def fitting_order(
    task: TaskKind, logits: Floats, labels: Any, guess: Sequence[int] | None = None
) -> tuple[list[int], float] | None:
    """The labels of outputs whose names are not the data's, and the share of right answers with them.

    Args:
        task: single_label, multi_label or token_classification.
        logits: in the teacher's own order.
        labels: gold.
        guess: an order that the names suggest; it is taken where it is above chance.

    Returns:
        For each output the index of its label; None: dev speaks for no order.
    """
    several = task == "multi_label"
    order = None if guess is None else _where_above_chance(task, logits, labels, guess)
    if order is None and several:
        found = _association(logits, np.asarray(labels))
        order = _assigned(found)
        order = order if _pooled(found[range(len(order)), order]) > _BETTER else None
    elif order is None:
        gold, answers = classes_of(task, logits, labels)
        classes = logits.shape[1]
        above = _above(gold, _held_out(gold, answers, classes), classes) > _ABOVE
        order = best_order(gold, answers, classes) if above else None
    if order is None:
        return None
    placed = logits[:, np.argsort(order)]
    if several:
        return order, float(((placed > 0) == np.asarray(labels)).mean())
    gold, answers = classes_of(task, placed, labels)
    return order, float((gold == answers).mean())


def _where_above_chance(task: TaskKind, logits: Floats, labels: Any, order: Sequence[int]) -> list[int] | None:
    """An order where the answers with it are above chance and not better with another; else None."""
    verdict = judge(task, logits[:, np.argsort(order)], labels)
    return [*order] if verdict is not None and verdict.above_chance and verdict.order is None else None


# --- classes ----------------------------------------------------------------------------------------------------------


def _judge_classes(gold: Ints, answers: Ints, classes: int, what: str) -> Verdict:
    right, rows = int((gold == answers).sum()), len(gold)
    chance = float((_shares(gold, classes) * _shares(answers, classes)).sum())
    held_out = _held_out(gold, answers, classes)
    won, lost = int(((held_out == gold) & (answers != gold)).sum()), int(((held_out != gold) & (answers == gold)).sum())
    order = best_order(gold, answers, classes)
    # One that always says the same is right more often as the largest class, and no better for it.
    better = (won - lost) / max(won + lost, 1) ** 0.5 > _BETTER and _above(gold, held_out, classes) > _ABOVE
    return Verdict(
        f"right on {right} of the {rows} {what} of dev ({right / rows:.1%})",
        f"{chance:.1%}",
        _told(_above(gold, answers, classes), _above(gold, gold, classes)),
        tuple(order) if better else None,
        f"{(np.array(order)[answers] == gold).mean():.1%}",
    )


def _above(gold: Ints, answers: Ints, classes: int) -> float:
    """Standard errors by which the number of right answers is above that of the same answers in a random order.

    Mean and variance of a sum over a random permutation (Hoeffding 1951), so that unequal classes and a teacher that
    always says the same are no trap.
    """
    rows = len(gold)
    truth, said = _shares(gold, classes), _shares(answers, classes)
    chance = float((truth * said).sum())
    spread = np.eye(classes) - said[:, None] - truth[None, :] + chance
    variance = rows * rows / max(rows - 1, 1) * float((truth[:, None] * said[None, :] * spread**2).sum())
    excess = float((gold == answers).sum()) - rows * chance
    return 0.0 if variance < 1e-9 else excess / variance**0.5


def _held_out(gold: Ints, answers: Ints, classes: int) -> Ints:
    """The answers under the best order of the labels, each half of the rows under the other half's."""
    found = answers.copy()
    for half in (0, 1):
        rows = np.arange(len(gold)) % 2 == half
        found[rows] = np.array(best_order(gold[~rows], answers[~rows], classes))[answers[rows]]
    return found


def _shares(values: Ints, classes: int) -> Floats:
    return np.bincount(values, minlength=classes) / max(len(values), 1)


def _assigned(worth: Floats) -> list[int]:
    """For each row of a matrix a column of its own, with the largest sum; its own number where all are alike."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(worth + 1e-6 * np.eye(len(worth)), maximize=True)
    return [int(column) for column in columns]


def _told(errors: float, possible: float) -> bool | None:
    """Whether something is above chance; None where nothing could be."""
    return errors > _ABOVE if possible > _ABOVE else None


# --- several labels ---------------------------------------------------------------------------------------------------


def _judge_several(logits: Floats, gold: Ints) -> Verdict:
    from potstill.scores.metrics import micro_f1

    found, possible = _association(logits, gold), _association(gold.astype(np.float64), gold)
    own, could = found.diagonal(), possible.diagonal()
    weak = tuple(int(label) for label in np.flatnonzero((own <= _ABOVE) & (could > _ABOVE)))
    held_out = [_moved(logits, gold, half) for half in (0, 1)]
    order = _assigned(found)
    gain, moved = (sum(values) for values in zip(*held_out, strict=True))
    better = moved > 0 and gain / (2 * moved) ** 0.5 > _BETTER
    places = np.argsort(order)
    return Verdict(
        f"at a micro F1 of {micro_f1(gold, logits > 0):.1%} on the {len(gold)} rows of dev",
        "that of answers without a relation to the labels",
        _told(_pooled(own), _pooled(could)),
        tuple(order) if better else None,
        f"{micro_f1(gold, logits[:, places] > 0):.1%}",
        weak,
    )


def _moved(logits: Floats, gold: Ints, half: int) -> tuple[float, int]:
    """What the other half's best order gains on this half, in standard errors, and how many labels it moves."""
    rows = np.arange(len(gold)) % 2 == half
    order = _assigned(_association(logits[~rows], gold[~rows]))
    found = _association(logits[rows], gold[rows])
    moved = [output for output, label in enumerate(order) if output != label]
    return float(sum(found[output, order[output]] - found[output, output] for output in moved)), len(moved)


def _association(logits: Floats, gold: Ints) -> Floats:
    """[outputs, labels] standard errors by which an output is higher where a label holds (Mann & Whitney 1947)."""
    from scipy.stats import rankdata

    rows, held = len(gold), gold.sum(axis=0)
    ranks = rankdata(logits, axis=0)
    sums = ranks.T @ gold - held * (rows + 1) / 2
    variance = ranks.var(axis=0)[:, None] * (held * (rows - held) / max(rows - 1, 1))[None, :]
    found: Floats = np.divide(sums, np.sqrt(variance), out=np.zeros_like(sums), where=variance > 1e-9)
    return found


def _pooled(errors: Floats) -> float:
    """Several standard scores as one (Stouffer 1949)."""
    return float(errors.sum() / max(len(errors), 1) ** 0.5)


# --- numbers ----------------------------------------------------------------------------------------------------------


def _judge_numbers(answers: Floats, gold: Floats) -> Verdict:
    from potstill.scores.numbers import correlation

    spread = (gold - gold.mean()) ** 2
    gains = spread - (gold - answers) ** 2
    likeness = correlation(answers, gold)
    scale = ""
    if likeness > _LIKE:
        slope, start = np.polyfit(answers, gold, 1)
        scale = f" (correlation {likeness:.2f}: dev is {slope:.3g} times its number {start:+.3g})"
    return Verdict(
        f"at an R² of {gains.mean() / max(spread.mean(), 1e-12):.2f} on the {len(gold)} rows of dev{scale}",
        "that of always saying dev's mean",
        _told(_mean_errors(gains), _mean_errors(spread)),
    )


def _mean_errors(values: Floats) -> float:
    """A mean in its standard errors."""
    error = float(values.std()) / max(len(values) - 1, 1) ** 0.5
    mean = float(values.mean())
    return 0.0 if error < 1e-12 and mean <= 0 else mean / max(error, 1e-12)
