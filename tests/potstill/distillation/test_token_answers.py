"""Token classification and question answering use the same objectives as tasks with one answer a row."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from potstill.config.params_file import parse_distill
from potstill.config.term_params import CeTerm, DistTerm, KlTerm, MseTerm
from potstill.data.tokens.batches import SPAN, Batch, TokenDataset, ragged
from potstill.distillation.objective.composition import Blend, Distillation, make_terms
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised
from potstill.distillation.objective.mutual import CohortOutputs, MutualLearning
from potstill.distillation.teachers.ensembles import average
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.kinds.definitions.question_answering import best_tokens, token_span_f1
from potstill.kinds.definitions.token_classification import entity_f1
from tests.potstill.models.tiny import make

LENGTHS = np.array([5, 3, 7])
CLASSES = 3
X, N = -100, -1


def tags() -> TokenDataset:
    labels = np.empty(3, dtype=object)
    labels[:] = [np.array(row) for row in ([X, 0, X, 2, X], [X, N, X], [X, 1, 2, X, 0, X, X])]
    return TokenDataset(np.arange(15, dtype=np.int32), LENGTHS, None, labels, 0)


def spans() -> TokenDataset:
    labels = np.array([(1, 3), (-1, -1), (0, 0)], dtype=SPAN)
    return TokenDataset(np.arange(15, dtype=np.int32), LENGTHS, None, labels, 0)


class Teacher:
    """A source with fixed logits of every token."""

    name: ClassVar[str] = "a fixed teacher"

    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.logits = [torch.randn(length, width, generator=generator) * 2 for length in LENGTHS.tolist()]

    def supports(self, needs: Needs) -> bool:
        return not needs

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        return Outputs(padded([self.logits[row] for row in batch.rows], batch, float("nan")))


def padded(rows: list[Tensor], batch: Batch, filling: float) -> Tensor:
    found = torch.full((*batch.input_ids.shape, rows[0].shape[1]), filling)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def student(width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(length, width, generator=generator).requires_grad_() for length in LENGTHS.tolist()]


def terms(objective: Any, dataset: TokenDataset, logits: list[Tensor], parts: list[list[int]]) -> dict[str, float]:
    """Compute the terms of one optimizer step in several batches, with NaN on padding."""
    batches = [dataset.batch(np.array(part)) for part in parts]
    step, found = OptimizerStep.of(batches), {}
    for batch in batches:
        outputs = Outputs(padded([logits[row] for row in batch.rows], batch, float("nan")))
        for name, term in objective(outputs, batch, step).items():
            found[name] = found.get(name, 0.0) + term
    total = sum(found.values())
    assert isinstance(total, Tensor)
    total.backward()
    return {name: float(term.detach()) for name, term in found.items()}


def test_only_labelled_tokens_are_rows() -> None:
    ours, teacher, temperature, alpha = student(CLASSES), Teacher(CLASSES), 2.0, 0.9
    objective = Distillation(teacher, Blend(temperature, alpha, "token_classification"))
    found = terms(objective, tags(), ours, [[0, 1, 2]])
    soft = gold = 0.0
    for row, labels in enumerate(tags().labels):
        for token in np.flatnonzero(labels != X).tolist():
            p, q = (side[row][token].detach().double() / temperature for side in (teacher.logits, ours))
            kl = temperature**2 * functional.kl_div(
                q.log_softmax(0), p.log_softmax(0), log_target=True, reduction="sum"
            )
            labelled = labels[token] >= 0
            soft += float(kl) * (alpha if labelled else 1.0)
            sure = ours[row][token].detach().double().log_softmax(0)
            gold -= (1 - alpha) * float(sure[labels[token]]) if labelled else 0.0
    assert found == pytest.approx({"kl": soft / 6, "ce": gold / 6}, rel=1e-5)
    for row, labels in enumerate(tags().labels):
        gradient = ours[row].grad
        assert gradient is not None
        assert gradient.isfinite().all()
        assert (gradient[torch.from_numpy(labels == X)] == 0).all()
        assert (gradient[torch.from_numpy(labels != X)].abs().sum(dim=1) > 0).all()


def test_a_step_without_labelled_tokens_teaches_nothing() -> None:
    """Windows that lie within one long word, such as a file in base64, have none."""
    unlabelled = tags().with_labels(ragged([np.full(length, X) for length in LENGTHS.tolist()]))
    ours = student(CLASSES)
    model = make("bert", "ForTokenClassification")
    configs = [KlTerm(kind="kl"), CeTerm(kind="ce"), MseTerm(kind="mse"), DistTerm(kind="dist")]
    blend = Blend(2.0, 0.9, "token_classification")
    objective = Distillation(Teacher(CLASSES), blend, make_terms(configs, model, model, 1))
    found = terms(objective, unlabelled, ours, [[0, 1, 2]])
    assert set(found.values()) == {0.0}
    assert all(float(row.grad.abs().sum()) == 0 for row in ours if row.grad is not None)


class Several(Teacher):
    """A source with the stacked logits of three teachers."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.alone = [[row + 0.5 * number * row.flip(0) for row in self.logits] for number in range(3)]
        self.logits = [torch.stack(rows, dim=1) for rows in zip(*self.alone, strict=True)]

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        found = torch.zeros((*batch.input_ids.shape, *self.logits[0].shape[1:]))  # as a store pads
        for place, row in enumerate(batch.rows):
            found[place, : LENGTHS[row]] = self.logits[row]
        return Outputs(found)


WEIGHTS = (0.5, 0.2, 0.3)


@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_an_ensemble_teaches_the_mean_of_its_softened_probabilities(task: Any) -> None:
    """The loss equals that against one teacher with the mean probabilities."""
    dataset, width, temperature = (*((tags(), CLASSES) if task == "token_classification" else (spans(), 2)), 3.0)
    several, one = Several(width), Teacher(width)
    along = 1 if task == "token_classification" else 0
    for row, sides in enumerate(zip(*several.alone, strict=True)):
        mean = sum(w * (side / temperature).softmax(dim=along) for w, side in zip(WEIGHTS, sides, strict=True))
        one.logits[row] = temperature * torch.as_tensor(mean).log()
    ours, theirs = student(width), student(width)
    blend = Blend(temperature, 0.9, task)
    found = terms(Distillation(average(several, WEIGHTS), blend), dataset, ours, [[0, 2], [1]])
    assert found == pytest.approx(terms(Distillation(one, blend), dataset, theirs, [[0, 1, 2]]), rel=1e-4)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_students_teach_each_other_on_labelled_tokens(task: Any) -> None:
    dataset, width = (tags(), CLASSES) if task == "token_classification" else (spans(), 2)
    first, second = student(width), [row.detach() * 0.3 for row in student(width)]
    batch = dataset.batch(np.arange(3))
    each = tuple(Outputs(padded(side, batch, float("nan"))) for side in (first, second))
    mutual = MutualLearning([Supervised(task), Supervised(task)], 2.0, 0.7, task)
    found = mutual(CohortOutputs(each[0].logits, students=each), batch, OptimizerStep.of([batch]))

    class Other(Teacher):
        def __init__(self) -> None:
            self.logits = second

    alone = terms(Distillation(Other(), Blend(2.0, 1.0, task)), dataset, student(width), [[0, 1, 2]])
    assert float(found["student1_mutual"].detach()) == pytest.approx(0.7 * alone["kl"], rel=1e-5)
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(row.grad is not None and row.grad.isfinite().all() for row in first)


@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_micro_batches_add_up_to_one_batch(task: Any) -> None:
    """Padding differs between the two and must not count."""
    dataset, width = (tags(), CLASSES) if task == "token_classification" else (spans(), 2)
    for objective in (Distillation(Teacher(width), Blend(2.0, 0.5, task)), Supervised(task)):
        whole, split = student(width), student(width)
        one = terms(objective, dataset, whole, [[0, 1, 2]])
        assert terms(objective, dataset, split, [[2], [1, 0]]) == pytest.approx(one, rel=1e-5)
        for a, b in zip(whole, split, strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_spans_are_classes_among_the_tokens_of_a_row() -> None:
    ours, teacher = student(2), Teacher(2)
    found = terms(Distillation(teacher, Blend(1.0, 0.5, "question_answering")), spans(), ours, [[0, 1, 2]])
    soft = gold = 0.0
    for row, (places, known) in enumerate((((1, 3), True), ((-1, -1), False), ((0, 0), True))):
        for side, place in enumerate(places):
            q, p = (
                ours[row][:, side].detach().double().log_softmax(0),
                teacher.logits[row][:, side].double().log_softmax(0),
            )
            soft += float(functional.kl_div(q, p, log_target=True, reduction="sum")) / 2 * (0.5 if known else 1.0)
            gold += -float(q[place]) / 2 * 0.5 if known else 0.0
    assert found == pytest.approx({"kl": soft / 3, "ce": gold / 3}, rel=1e-5)


def test_the_blend_is_described_by_token() -> None:
    params = parse_distill({"layers": [0], "epochs": 1, "learning_rate": 1e-4})
    said = Blend(params.temperature, params.alpha, "token_classification").describe()
    assert said == "0.9 * T^2 * KL(T=2) by token + 0.1 * CE"


def test_dev_scores_of_tokens() -> None:
    labels = np.empty(2, dtype=object)
    labels[:] = [np.array([X, 1, 2, 0, X]), np.array([X, 1, X])]
    perfect = np.eye(3, dtype=np.float32)[[1, 2, 0, 1]]
    assert entity_f1(perfect, labels) == 1
    assert entity_f1(np.eye(3, dtype=np.float32)[[1, 0, 0, 1]], labels) == 0.5


def test_the_best_span_of_a_window() -> None:
    logits = np.zeros((5, 2), dtype=np.float32)
    logits[3, 0], logits[2, 1], logits[4, 1] = 3, 9, 1  # the best end lies before the best start
    assert best_tokens(logits) == (1, 2)
    logits[0] = 20
    assert best_tokens(logits) == (0, 0)
    rows = np.empty(2, dtype=object)
    rows[:] = [logits, -logits]
    gold = np.array([(0, 0), (1, 1)], dtype=SPAN)
    assert 0.5 <= token_span_f1(rows, gold) <= 1
