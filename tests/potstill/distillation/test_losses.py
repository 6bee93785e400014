"""Each loss compared with a plain reference in float64, and mistakes of other libraries as tests."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from potstill.data.tokens.batches import Batch
from potstill.distillation.losses.logits import cross_entropy, kl_divergence
from potstill.distillation.objective.composition import Blend, Distillation
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised, Terms
from potstill.distillation.teachers.outputs import Outputs
from potstill.distillation.teachers.signal_store import StoredSignals


def softmax(values: list[float]) -> list[float]:
    exponents = [math.exp(value - max(values)) for value in values]
    return [exponent / sum(exponents) for exponent in exponents]


def reference_kl(student: list[float], teacher: list[float], temperature: float) -> float:
    p = softmax([value / temperature for value in teacher])
    q = softmax([value / temperature for value in student])
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


STUDENT = [[1.0, -0.5, 0.3], [0.0, 2.0, -1.0]]
TEACHER = [[2.0, 0.1, -1.2], [-0.4, 1.0, 0.6]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_kl_equals_the_definition(temperature: float) -> None:
    found = kl_divergence(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)
    wanted = [reference_kl(s, t, temperature) for s, t in zip(STUDENT, TEACHER, strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_kl_of_equal_logits_is_zero_and_extreme_logits_stay_finite() -> None:
    same = torch.tensor(STUDENT)
    assert kl_divergence(same, same, 2.0).abs().max() < 1e-6
    extreme = torch.tensor([[1e4, -1e4, 0.0]])
    assert torch.isfinite(kl_divergence(torch.tensor([[0.0, 0.0, 0.0]]), extreme, 1.0)).all()


def test_temperature_does_not_reweight_the_gradient() -> None:
    """Without T^2 (TextBrewer) the gradient at T=8 is 1/64 of its proper size."""
    norms = []
    for temperature in (8.0, 16.0, 32.0):
        student = torch.tensor(STUDENT, requires_grad=True)
        kl_divergence(student, torch.tensor(TEACHER), temperature).mean().backward()
        assert student.grad is not None
        norms.append(float(student.grad.norm()))
    # In the limit of high T the gradient is the difference of centred logits / classes, whatever T is.
    s = np.array(STUDENT) - np.array(STUDENT).mean(1, keepdims=True)
    t = np.array(TEACHER) - np.array(TEACHER).mean(1, keepdims=True)
    limit = float(np.linalg.norm((s - t) / 3 / 2))
    assert norms[2] == pytest.approx(limit, rel=0.05)
    assert norms[0] == pytest.approx(norms[2], rel=0.15)


def test_no_gradient_flows_to_the_teacher() -> None:
    teacher = torch.tensor(TEACHER, requires_grad=True)
    kl_divergence(torch.tensor(STUDENT, requires_grad=True), teacher, 2.0).sum().backward()
    assert teacher.grad is None


def test_cross_entropy_equals_the_definition_and_skips_rows_without_a_label() -> None:
    found = cross_entropy(torch.tensor(STUDENT), torch.tensor([2, -1]))
    assert found.tolist() == pytest.approx([-math.log(softmax(STUDENT[0])[2]), 0.0], rel=1e-6)


def batch(labels: list[int]) -> Batch:
    ids = np.ones((len(labels), 3), dtype=np.int64)
    return Batch(np.arange(len(labels)), ids, ids, None, np.array(labels))


def supervised(labels: list[int]) -> Terms:
    rows = batch(labels)
    return Supervised()(Outputs(torch.tensor(STUDENT)), rows, OptimizerStep.of([rows]))


def test_supervised_is_the_mean_over_labelled_rows() -> None:
    terms = supervised([2, -1])
    assert float(terms["ce"]) == pytest.approx(-math.log(softmax(STUDENT[0])[2]), rel=1e-6)
    assert float(supervised([-1, -1])["ce"]) == 0.0


def test_unlabelled_rows_carry_the_teacher_with_full_weight() -> None:
    objective = Distillation(StoredSignals(np.array(TEACHER), np.arange(2)), Blend(temperature=2.0, alpha=0.9))
    rows = batch([2, -1])
    terms = objective(Outputs(torch.tensor(STUDENT)), rows, OptimizerStep.of([rows]))
    kl = [reference_kl(s, t, 2.0) for s, t in zip(STUDENT, TEACHER, strict=True)]
    assert float(terms["kl"]) == pytest.approx((0.9 * kl[0] + 1.0 * kl[1]) / 2, rel=1e-5)
    assert float(terms["ce"]) == pytest.approx(0.1 * -math.log(softmax(STUDENT[0])[2]) / 2, rel=1e-5)
