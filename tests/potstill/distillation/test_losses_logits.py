"""The other losses on logits: against plain references in float64, and on what has to leave them unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from potstill.distillation.losses import logits as losses
from potstill.errors import SignalError

Array = npt.NDArray[np.float64]
Loss = Callable[[Tensor, Tensor], Tensor]

RANDOM = np.random.default_rng(5)
STUDENT, TEACHER = RANDOM.normal(size=(2, 5, 4)) * 2


def tensor(values: Array) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def softmax(values: Array) -> Array:
    exponents: Array = np.exp(values - values.max())
    return exponents / exponents.sum()


# Each takes (student, teacher) logits; those with a temperature at T = 2.
PAIRED: dict[str, Loss] = {
    "kl_divergence": lambda s, t: losses.kl_divergence(s, t, 2.0),
    "mean_squared_error": losses.mean_squared_error,
    "soft_binary_cross_entropy": lambda s, t: losses.soft_binary_cross_entropy(s, t, 2.0),
    "dist_inter_class": lambda s, t: losses.dist_inter_class(s, t, 2.0),
    "dist_intra_class": lambda s, t: losses.dist_intra_class(s, t, 2.0),
}
paired = pytest.mark.parametrize("loss", PAIRED.values(), ids=PAIRED)


def test_mean_squared_error_equals_the_definition() -> None:
    wanted = [sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / 4 for s, t in zip(STUDENT, TEACHER, strict=True)]
    assert losses.mean_squared_error(tensor(STUDENT), tensor(TEACHER)).tolist() == pytest.approx(wanted, rel=1e-5)


def test_kl_at_high_temperature_is_half_the_squared_error_of_centred_logits() -> None:
    centred = [tensor(values - values.mean(1, keepdims=True)) for values in (STUDENT, TEACHER)]
    kl = losses.kl_divergence(*centred, temperature=200.0)
    assert kl.tolist() == pytest.approx((losses.mean_squared_error(*centred) / 2).tolist(), rel=0.05)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_squared_error_skips_rows_without_a_gold_value(shape: tuple[int, ...]) -> None:
    outputs = torch.tensor([1.0, 2.0, 3.0]).reshape(shape).requires_grad_()
    found = losses.squared_error(outputs, torch.tensor([0.5, math.nan, 5.0]))
    assert found.tolist() == pytest.approx([0.25, 0.0, 4.0])
    found.sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.flatten().tolist() == pytest.approx([1.0, 0.0, -4.0])


def test_squared_error_refuses_more_outputs_than_rows() -> None:
    with pytest.raises(SignalError, match="one output a row"):
        losses.squared_error(torch.zeros(3, 2), torch.zeros(3))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_binary_cross_entropy_equals_the_definition(temperature: float) -> None:
    wanted = []
    for s, t in zip(STUDENT, TEACHER, strict=True):
        total = 0.0
        for a, b in zip(s, t, strict=True):
            q, p = 1 / (1 + math.exp(-a / temperature)), 1 / (1 + math.exp(-b / temperature))
            total -= p * math.log(q) + (1 - p) * math.log(1 - q)
        wanted.append(temperature**2 * total / 4)
    found = losses.soft_binary_cross_entropy(tensor(STUDENT), tensor(TEACHER), temperature)
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)


def test_binary_cross_entropy_skips_unknown_labels() -> None:
    found = losses.binary_cross_entropy(
        torch.tensor([[1.0, -2.0, 0.5], [1.0, 1.0, 1.0]]), torch.tensor([[1, 0, -1], [-1, -1, -1]])
    )
    wanted = (-math.log(1 / (1 + math.exp(-1.0))) - math.log(1 - 1 / (1 + math.exp(2.0)))) / 2
    assert found.tolist() == pytest.approx([wanted, 0.0], rel=1e-5)
    with pytest.raises(SignalError, match=r"\[batch, labels\]"):
        losses.binary_cross_entropy(torch.zeros(2, 3), torch.zeros(2))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_dist_equals_one_minus_pearson(temperature: float) -> None:
    ours = np.array([softmax(row / temperature) for row in STUDENT])
    theirs = np.array([softmax(row / temperature) for row in TEACHER])
    inter = [1 - np.corrcoef(ours[row], theirs[row])[0, 1] for row in range(5)]
    intra = [1 - np.corrcoef(ours[:, column], theirs[:, column])[0, 1] for column in range(4)]
    found = losses.dist_inter_class(tensor(STUDENT), tensor(TEACHER), temperature)
    assert found.tolist() == pytest.approx(inter, abs=1e-5)
    found = losses.dist_intra_class(tensor(STUDENT), tensor(TEACHER), temperature)
    assert found.tolist() == pytest.approx(intra, abs=1e-5)


@pytest.mark.parametrize("constant", ["student", "teacher", "rows"])
def test_dist_of_constant_outputs_has_a_finite_gradient(constant: str) -> None:
    rows = 1 if constant == "rows" else 5
    student = (torch.zeros(5, 4) if constant == "student" else tensor(STUDENT[:rows])).requires_grad_()
    teacher = torch.zeros(5, 4) if constant == "teacher" else tensor(TEACHER[:rows])
    total = (
        losses.dist_inter_class(student, teacher, 1.0).mean() + losses.dist_intra_class(student, teacher, 1.0).mean()
    )
    total.backward()
    assert student.grad is not None
    assert torch.isfinite(total)
    assert student.grad.abs().max() < 1e4


@pytest.mark.parametrize(
    "loss", [losses.soft_binary_cross_entropy, losses.dist_inter_class, losses.dist_intra_class, losses.kl_divergence]
)
def test_temperature_does_not_reweight_the_gradient(loss: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """T^2 where probabilities shrink the gradient (TextBrewer left it out), and none where a correlation does not."""
    norms = []
    for temperature in (8.0, 16.0, 32.0):
        student = tensor(STUDENT).requires_grad_()
        loss(student, tensor(TEACHER), temperature).mean().backward()
        assert student.grad is not None
        norms.append(float(student.grad.norm()))
    assert norms[0] == pytest.approx(norms[2], rel=0.2)


@paired
def test_no_gradient_to_the_teacher_and_fp32_from_bf16(loss: Loss) -> None:
    student = tensor(STUDENT).bfloat16().requires_grad_()
    teacher = tensor(TEACHER).bfloat16().requires_grad_()
    found = loss(student, teacher)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert torch.equal(found, loss(student.detach().float(), teacher.detach().float()))


@paired
def test_other_class_counts_are_refused(loss: Loss) -> None:
    with pytest.raises(SignalError, match="the teacher's labels"):
        loss(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(SignalError, match="the same rows"):  # broadcasting would have taken it
        loss(torch.zeros(5, 4), torch.zeros(1, 4))


@pytest.mark.parametrize("name", [name for name in PAIRED if name != "dist_intra_class"])
def test_micro_batches_add_up(name: str) -> None:
    """Divided by the tokens or rows twice (torchtune), one batch of 4 is not two of 2."""
    loss = PAIRED[name]
    whole, halves = tensor(STUDENT).requires_grad_(), tensor(STUDENT).requires_grad_()
    (loss(whole, tensor(TEACHER)).sum() / 5).backward()
    for rows in (slice(0, 2), slice(2, 5)):
        (loss(halves[rows], tensor(TEACHER)[rows]).sum() / 5).backward()
    assert whole.grad is not None
    assert halves.grad is not None
    assert torch.allclose(whole.grad, halves.grad, rtol=1e-5, atol=1e-7)
