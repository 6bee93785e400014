"""Losses on sentence vectors, compared with plain loops in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from potstill.distillation.losses.sentences import contrastive, mean_vectors, patient, rkd_angle, rkd_distance
from potstill.errors import ModelError, SignalError

Array = npt.NDArray[np.float64]
Loss = Callable[[Tensor, Tensor], Tensor]

RANDOM = np.random.default_rng(7)
STUDENT, TEACHER = RANDOM.normal(size=(2, 5, 6))
NARROW = RANDOM.normal(size=(5, 3))

LOSSES: dict[str, Loss] = {
    "patient": lambda s, t: patient(s[:, None], t[:, None]),
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "contrastive": lambda s, t: contrastive(s, t, 0.1),
}
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def tensor(values: Array) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def huber(value: float) -> float:
    return value**2 / 2 if abs(value) < 1 else abs(value) - 0.5


def unit(vector: Array) -> Array:
    found: Array = vector / math.sqrt(vector @ vector)
    return found


def test_mean_vectors_count_real_tokens_only() -> None:
    states = RANDOM.normal(size=(3, 4, 2))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    wanted = [states[0].mean(0), states[1, :2].mean(0), np.zeros(2)]
    states[1, 2:] = np.nan
    assert mean_vectors(tensor(states), mask).numpy() == pytest.approx(np.array(wanted), rel=1e-5)
    with pytest.raises(SignalError, match="mask of the same batch"):
        mean_vectors(tensor(states), mask[:, :3])


def test_patient_equals_the_definition() -> None:
    s, t = RANDOM.normal(size=(2, 5, 2, 6))
    wanted = [
        sum(float(np.sum((unit(s[row, layer]) - unit(t[row, layer])) ** 2)) for layer in range(2)) for row in range(5)
    ]
    assert patient(tensor(s), tensor(t)).tolist() == pytest.approx(wanted, rel=1e-5)


def test_patient_needs_a_teacher_layer_for_each_student_layer() -> None:
    with pytest.raises(ModelError, match="3 layers of the student meet 2 of the teacher"):
        patient(torch.zeros(5, 3, 6), torch.zeros(5, 2, 6))


@pytest.mark.parametrize("student", [STUDENT, NARROW], ids=["same width", "narrower"])
def test_rkd_distance_equals_the_definition(student: Array) -> None:
    def distances(vectors: Array) -> Array:
        found = np.array([[math.dist(a, b) for b in vectors] for a in vectors])
        normalized: Array = found / (found.sum() / (5 * 4))
        return normalized

    s, t = distances(student), distances(TEACHER)
    wanted = [sum(huber(s[i, j] - t[i, j]) for j in range(5) if j != i) / 4 for i in range(5)]
    assert rkd_distance(tensor(student), tensor(TEACHER)).tolist() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("student", [STUDENT, NARROW], ids=["same width", "narrower"])
def test_rkd_angle_equals_the_definition(student: Array) -> None:
    def cosine(v: Array, corner: int, i: int, k: int) -> float:
        return float(unit(v[i] - v[corner]) @ unit(v[k] - v[corner]))

    wanted = []
    for corner in range(5):
        others = [row for row in range(5) if row != corner]
        wanted.append(
            sum(
                huber(cosine(student, corner, i, k) - cosine(TEACHER, corner, i, k))
                for i, k in itertools.permutations(others, 2)
            )
            / (4 * 3)
        )
    assert rkd_angle(tensor(student), tensor(TEACHER)).tolist() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
def test_rkd_ignores_scale_and_shift(loss: Loss) -> None:
    assert loss(tensor(TEACHER * 30 + 2), tensor(TEACHER)).max() < 1e-6


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
def test_rkd_of_copies_has_a_finite_gradient(loss: Loss) -> None:
    for student in (torch.ones(5, 6), tensor(STUDENT)[[0, 0, 1, 1, 2]]):
        student.requires_grad_()
        found = loss(student, tensor(TEACHER))
        found.sum().backward()
        assert torch.isfinite(found).all()
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


def reference_contrastive(groups: list[int]) -> list[float]:
    found = []
    for i in range(5):
        scores = [
            float(unit(STUDENT[i]) @ unit(TEACHER[j])) / 0.1 for j in range(5) if j == i or groups[j] != groups[i]
        ]
        own = float(unit(STUDENT[i]) @ unit(TEACHER[i])) / 0.1
        found.append(math.log(sum(math.exp(score - own) for score in scores)))
    return found


def test_contrastive_equals_the_definition() -> None:
    found = contrastive(tensor(STUDENT), tensor(TEACHER), 0.1)
    assert found.tolist() == pytest.approx(reference_contrastive([0, 1, 2, 3, 4]), rel=1e-4, abs=1e-5)


def test_copies_are_not_negatives() -> None:
    groups = [0, 1, 0, 1, 2]
    student = tensor(STUDENT).requires_grad_()
    found = contrastive(student, tensor(TEACHER), 0.1, torch.tensor(groups))
    assert found.tolist() == pytest.approx(reference_contrastive(groups), rel=1e-4, abs=1e-5)
    found.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    with pytest.raises(SignalError, match="one integer a row"):
        contrastive(student, tensor(TEACHER), 0.1, torch.tensor([0, 1]))


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle, LOSSES["contrastive"]])
def test_the_loss_of_a_single_row_is_0(loss: Loss) -> None:
    """The last batch of an epoch can be one row."""
    student = tensor(STUDENT[:1]).requires_grad_()
    found = loss(student, tensor(TEACHER[:1]))
    found.sum().backward()
    assert found.tolist() == pytest.approx([0.0], abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


@every
def test_no_gradient_to_the_teacher_and_fp32_from_bf16(loss: Loss) -> None:
    student, teacher = (tensor(side).bfloat16().requires_grad_() for side in (STUDENT, TEACHER))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    wanted = loss(student.detach().float(), teacher.detach().float())
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-7)


@every
def test_other_rows_are_refused(loss: Loss) -> None:
    with pytest.raises(SignalError, match="the same rows"):
        loss(tensor(STUDENT), tensor(TEACHER)[:3])


@pytest.mark.parametrize("name", ["patient", "contrastive"])
def test_other_widths_need_a_projection(name: str) -> None:
    with pytest.raises(ModelError, match="3 wide and the teacher's 6; project"):
        LOSSES[name](tensor(NARROW), tensor(TEACHER))
