from __future__ import annotations

import pytest
import torch
from torch import Tensor

from potstill.distillation.losses.spans import span_cross_entropy, span_kl
from potstill.errors import SignalError

LENGTHS = [7, 3, 5]


def batch(seed: int = 0, width: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(3, width, generator=generator) * 3 for _ in range(2))
    mask = (torch.arange(width)[None, :] < torch.tensor(LENGTHS)[:, None]).long()
    return student.requires_grad_(), teacher, mask


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_equals_the_definition_over_real_tokens(temperature: float) -> None:
    student, teacher, mask = batch()
    for row, length in enumerate(LENGTHS):
        p = torch.softmax(teacher[row, :length].double() / temperature, 0)
        q = torch.softmax(student[row, :length].double() / temperature, 0)
        wanted = temperature**2 * (p * (p.log() - q.log())).sum()
        torch.testing.assert_close(span_kl(student, teacher, mask, temperature)[row], wanted.float())


def test_cross_entropy_equals_the_definition_and_is_0_without_an_answer() -> None:
    student, _, mask = batch()
    found = span_cross_entropy(student, torch.tensor([6, -1, 0]), mask)
    wanted = [-torch.log_softmax(student[row, :length].double(), 0)[at] for row, length, at in ((0, 7, 6), (2, 5, 0))]
    torch.testing.assert_close(found[[0, 2]], torch.stack(wanted).float())
    assert found[1] == 0


@pytest.mark.parametrize("loss", ["kl", "ce"])
def test_padding_never_counts(loss: str) -> None:
    student, teacher, mask = batch()
    positions = torch.tensor([2, 1, 4])

    def losses(ours: Tensor, theirs: Tensor, real: Tensor) -> Tensor:
        return span_kl(ours, theirs, real, 2.0) if loss == "kl" else span_cross_entropy(ours, positions, real)

    before = losses(student, teacher, mask)
    spoilt = student.detach().clone()
    spoilt[mask == 0] = float("nan")
    spoilt.requires_grad_()
    after = losses(spoilt, teacher.masked_fill(mask == 0, float("inf")), mask)
    torch.testing.assert_close(after, before)
    (gradient,) = torch.autograd.grad(after.sum(), spoilt)
    assert (gradient[mask == 0] == 0).all()
    assert gradient.isfinite().all()
    longer = [torch.nn.functional.pad(tensor, (0, 4)) for tensor in (student, teacher, mask)]
    torch.testing.assert_close(losses(*longer), before)


def test_temperature_does_not_reweight_the_gradient() -> None:
    """Gradients at T = 8 and T = 1 have the same order of magnitude (in TextBrewer the ratio is 1/64)."""
    student, teacher, mask = batch()
    sizes = []
    for temperature in (1.0, 8.0):
        (gradient,) = torch.autograd.grad(span_kl(student * 0.1, teacher * 0.1, mask, temperature).sum(), student)
        sizes.append(float(gradient.norm()))
    assert 0.5 < sizes[1] / sizes[0] < 2


def test_shapes_that_do_not_fit_are_refused() -> None:
    student, teacher, mask = batch()
    with pytest.raises(SignalError, match=r"\[3, 7\] and the teacher's \[3, 5\]"):
        span_kl(student, teacher[:, :5], mask, 1.0)
    for beyond in (3, 7):
        with pytest.raises(SignalError, match="beyond its row's tokens"):
            span_cross_entropy(student, torch.tensor([0, beyond, 0]), mask)
