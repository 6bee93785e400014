"""Gold labels and a teacher's logits of several labels and of numbers, against plain references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from potstill.data.tokens.batches import Batch
from potstill.distillation.objective.composition import Blend, Distillation, make_terms
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised
from potstill.distillation.objective.terms import Term
from potstill.distillation.teachers.outputs import Outputs
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import ModelError
from potstill.kinds.losses.head_loss import gold_rows
from potstill.kinds.task_names import TaskKind
from tests.potstill.models.tiny import make

# The last row has no gold label.
FLAGS = np.array([[1, 0], [1, 1], [-1, -1]])
NUMBERS = np.array([0.5, -2.0, np.nan], dtype=np.float32)
STUDENT = {"multi_label": [[0.2, -1.0], [2.0, 0.1], [0.3, 0.4]], "regression": [[1.0], [-1.0], [3.0]]}
TEACHER = {"multi_label": [[1.5, -0.5], [1.0, 2.0], [-3.0, 0.2]], "regression": [[0.7], [-1.5], [2.0]]}
GOLD: dict[str, Any] = {"multi_label": FLAGS, "regression": NUMBERS}
TASKS: tuple[TaskKind, ...] = ("multi_label", "regression")


def batch(labels: np.ndarray) -> Batch:
    ids = np.ones((len(labels), 2), dtype=np.int64)
    return Batch(np.arange(len(labels)), ids, ids, None, labels)


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def _bce(logits: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    p = _sigmoid(logits)
    return -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p))


@pytest.mark.parametrize("task", TASKS)
def test_gold_labels_by_hand(task: TaskKind) -> None:
    rows, logits = batch(GOLD[task]), np.array(STUDENT[task])
    step = OptimizerStep.of([rows])
    assert step.gold == 2
    terms = Supervised(task)(Outputs(torch.tensor(STUDENT[task])), rows, step)
    each = _bce(logits[:2], FLAGS[:2]) if task == "multi_label" else (logits[:2, 0] - NUMBERS[:2]) ** 2
    assert {name: term.item() for name, term in terms.items()} == {
        "bce" if task == "multi_label" else "se": pytest.approx(each.mean(), rel=1e-5)
    }


@pytest.mark.parametrize("task", TASKS)
def test_an_unlabelled_row_carries_the_teacher_with_weight_one(task: TaskKind) -> None:
    rows = batch(GOLD[task])
    goal = Distillation(StoredSignals(np.array(TEACHER[task]), np.arange(3)), Blend(2.0, 0.75, task))
    found = goal(Outputs(torch.tensor(STUDENT[task])), rows, OptimizerStep.of([rows]))
    ours, theirs = np.array(STUDENT[task]), np.array(TEACHER[task])
    if task == "multi_label":
        soft, hard = 4 * _bce(ours / 2, _sigmoid(theirs / 2)).mean(axis=1), _bce(ours, FLAGS).mean(axis=1)
        names = ("soft_bce", "bce")
    else:
        soft, hard = (ours - theirs)[:, 0] ** 2, (ours[:, 0] - NUMBERS) ** 2
        names = ("mse", "se")
    assert found[names[0]].item() == pytest.approx((0.75 * soft[0] + 0.75 * soft[1] + soft[2]) / 3, rel=1e-5)
    assert found[names[1]].item() == pytest.approx(0.25 * (hard[0] + hard[1]) / 3, rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_halves_of_a_step_add_up_to_it(task: TaskKind) -> None:
    logits, labels = torch.tensor(STUDENT[task]), GOLD[task]
    whole = batch(labels)
    parts = [batch(labels[:1]), batch(labels[1:])]
    step = OptimizerStep.of(parts)
    goal = Supervised(task)
    (total,) = goal(Outputs(logits), whole, OptimizerStep.of([whole])).values()
    found = [goal(Outputs(part), rows, step) for part, rows in zip((logits[:1], logits[1:]), parts, strict=True)]
    assert sum(next(iter(terms.values())).item() for terms in found) == pytest.approx(total.item(), rel=1e-6)


def test_rows_with_a_gold_label() -> None:
    assert gold_rows(torch.tensor([0, -1, 2])).tolist() == [True, False, True]
    assert gold_rows(torch.from_numpy(FLAGS)).tolist() == [True, True, False]
    assert gold_rows(torch.from_numpy(NUMBERS)).tolist() == [True, True, False]
    for labels in (np.array([0, -1, 2]), FLAGS, NUMBERS):
        assert batch(labels).gold.tolist() == gold_rows(torch.from_numpy(labels)).tolist()


def _config(**values: Any) -> Any:
    from potstill.config.params_file import parse_distill

    return parse_distill({"epochs": 1, "learning_rate": 1e-3, "layers": [0], "terms": [values]}).terms[0]


@pytest.mark.parametrize("kind", ["kl", "ce", "dist"])
def test_terms_of_classes_are_refused_for_other_tasks(kind: str) -> None:
    student = make("bert", problem_type="multi_label_classification")
    with pytest.raises(ModelError, match=f"term {kind} needs probabilities that add up to 1 over the classes, which a"):
        Term(_config(kind=kind), student, student)


def test_a_term_keeps_apart_from_the_blends_of_the_same_name() -> None:
    student = make("bert", num_labels=1, problem_type="regression")
    assert list(make_terms([_config(kind="mse")], student, student, seed=1)) == ["mse_2"]
