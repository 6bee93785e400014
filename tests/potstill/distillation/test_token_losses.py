"""Losses over tokens (hidden states, attention maps, relations): references in float64, padding, accumulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from potstill.distillation.losses.attention import attention_kl, attention_mse
from potstill.distillation.losses.hidden import Projections, hidden_cosine, hidden_mse
from potstill.distillation.losses.relations import self_attention_relation, self_attention_relations
from potstill.distillation.losses.tensors import SelfAttention
from potstill.errors import ModelError, SignalError

Array = npt.NDArray[np.float64]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

RANDOM = np.random.default_rng(6)
LENGTHS = [3, 5, 1, 2]
ROWS, SEQUENCE, WIDTH, HEADS = 4, 5, 12, 3
MASK = torch.tensor([[int(column < length) for column in range(SEQUENCE)] for length in LENGTHS])


def tensor(values: Array) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def per_token(sums: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the real tokens of a batch."""
    return sums.sum() / (mask != 0).sum().clamp(min=1)


def softmax(values: Array) -> Array:
    exponents: Array = np.exp(values - values.max())
    return exponents / exponents.sum()


def maps(heads: int) -> Array:
    """Attention probabilities over real keys, 0 on padding."""
    found = np.zeros((ROWS, heads, SEQUENCE, SEQUENCE))
    for row, length in enumerate(LENGTHS):
        for head in range(heads):
            for query in range(SEQUENCE):
                found[row, head, query, :length] = softmax(RANDOM.normal(size=length))
    return found


STATES = (RANDOM.normal(size=(ROWS, SEQUENCE, WIDTH)), RANDOM.normal(size=(ROWS, SEQUENCE, WIDTH)))
MAPS = (maps(HEADS), maps(HEADS))


def relation(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return self_attention_relation(student, teacher, mask, heads=3)


def reference_cosine(s: Array, t: Array) -> list[float]:
    return [
        sum(
            1 - s[row, i] @ t[row, i] / math.sqrt((s[row, i] @ s[row, i]) * (t[row, i] @ t[row, i]))
            for i in range(length)
        )
        for row, length in enumerate(LENGTHS)
    ]


def reference_mse(s: Array, t: Array) -> list[float]:
    return [
        sum(sum((a - b) ** 2 for a, b in zip(s[row, i], t[row, i], strict=True)) / WIDTH for i in range(length))
        for row, length in enumerate(LENGTHS)
    ]


def reference_attention_mse(s: Array, t: Array) -> list[float]:
    found = []
    for row, n in enumerate(LENGTHS):
        squares = [(s[row, h, i, j] - t[row, h, i, j]) ** 2 for h in range(HEADS) for i in range(n) for j in range(n)]
        found.append(sum(squares) / HEADS / n)
    return found


def reference_attention_kl(s: Array, t: Array) -> list[float]:
    found = []
    for row, n in enumerate(LENGTHS):
        total = 0.0
        for h in range(HEADS):
            for i in range(n):
                total += sum(t[row, h, i, j] * math.log(t[row, h, i, j] / s[row, h, i, j]) for j in range(n))
        found.append(total / HEADS)
    return found


def reference_relation(s: Array, t: Array, heads: int = 3) -> list[float]:
    found = []
    for row, n in enumerate(LENGTHS):
        total = 0.0
        for h in range(heads):
            p, q = (
                [softmax(np.array([part[i] @ part[j] / math.sqrt(part.shape[1]) for j in range(n)])) for i in range(n)]
                for part in (x[row, :, h * x.shape[2] // heads : (h + 1) * x.shape[2] // heads] for x in (t, s))
            )
            total += sum(float(np.sum(p[i] * np.log(p[i] / q[i]))) for i in range(n))
        found.append(total / heads)
    return found


Reference = Callable[[Array, Array], list[float]]
CASES: dict[str, tuple[Loss, Reference, tuple[Array, Array]]] = {
    "hidden_cosine": (hidden_cosine, reference_cosine, STATES),
    "hidden_mse": (hidden_mse, reference_mse, STATES),
    "attention_mse": (attention_mse, reference_attention_mse, MAPS),
    "attention_kl": (attention_kl, reference_attention_kl, MAPS),
    "self_attention_relation": (relation, reference_relation, STATES),
}
cases = pytest.mark.parametrize(("loss", "reference", "values"), CASES.values(), ids=CASES)


def padded(values: Tensor, columns: int, filling: float) -> Tensor:
    """Add padding, and fill all padding with a value."""
    attention = values.dim() == 4
    shape = list(values.shape)
    shape[-1 if attention else 1] += columns
    if attention:
        shape[2] += columns
    found = torch.full(shape, filling)
    for row, n in enumerate(LENGTHS):
        if attention:
            found[row, :, :n, :n] = values[row, :, :n, :n]
        else:
            found[row, :n] = values[row, :n]
    return found


@cases
def test_equals_the_definition(loss: Loss, reference: Reference, values: tuple[Array, Array]) -> None:
    found = loss(tensor(values[0]), tensor(values[1]), MASK)
    assert found.shape == (ROWS,)
    assert found.tolist() == pytest.approx(reference(*values), rel=2e-5, abs=1e-6)


@cases
def test_equal_states_have_no_loss(loss: Loss, reference: Reference, values: tuple[Array, Array]) -> None:
    assert loss(tensor(values[0]), tensor(values[0]), MASK).abs().max() < 1e-5


@cases
@pytest.mark.parametrize("filling", [0.0, 7.0, 1e30, math.nan])
def test_padding_changes_nothing(loss: Loss, reference: Reference, values: tuple[Array, Array], filling: float) -> None:
    """TinyBERT averages over padding; here neither its amount nor its content changes loss or gradient."""
    plain, teacher = tensor(values[0]).requires_grad_(), tensor(values[1])
    sums = loss(plain, teacher, MASK)
    sums.sum().backward()
    wider = padded(plain.detach(), 3, filling).requires_grad_()
    mask = torch.cat([MASK, torch.zeros(ROWS, 3, dtype=MASK.dtype)], dim=1)
    found = loss(wider, padded(teacher, 3, filling), mask)
    assert torch.allclose(found, sums, rtol=1e-5, atol=1e-6)
    assert per_token(found, mask).item() == pytest.approx(per_token(sums, MASK).item(), rel=1e-5)
    found.sum().backward()
    assert wider.grad is not None
    assert plain.grad is not None
    assert torch.allclose(wider.grad, padded(plain.grad, 3, 0.0), rtol=1e-4, atol=1e-6)


@cases
def test_micro_batches_add_up_by_tokens(loss: Loss, reference: Reference, values: tuple[Array, Array]) -> None:
    """If losses were divided twice (torchtune) or were means of means, one batch of N would differ from two of N/2."""
    teacher, tokens = tensor(values[1]), int(MASK.sum())
    whole, halves = tensor(values[0]).requires_grad_(), tensor(values[0]).requires_grad_()
    mean = per_token(loss(whole, teacher, MASK), MASK)
    mean.backward()
    total = 0.0
    for rows in (slice(0, 2), slice(2, 4)):
        part = loss(halves[rows], teacher[rows], MASK[rows])
        (part.sum() / tokens).backward()
        total += per_token(part, MASK[rows]).item() * int(MASK[rows].sum()) / tokens
    assert total == pytest.approx(mean.item(), rel=1e-5)
    assert whole.grad is not None
    assert halves.grad is not None
    assert torch.allclose(whole.grad, halves.grad, rtol=1e-5, atol=1e-7)


@cases
def test_no_gradient_to_the_teacher_and_fp32_from_bf16(
    loss: Loss, reference: Reference, values: tuple[Array, Array]
) -> None:
    student, teacher = (tensor(side).bfloat16().requires_grad_() for side in values)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # a loss inside a caller's autocast is no coarser
        found = loss(student, teacher, MASK)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    wanted = loss(student.detach().float(), teacher.detach().float(), MASK)
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-7)


@cases
def test_rows_and_batches_of_padding_have_no_loss(
    loss: Loss, reference: Reference, values: tuple[Array, Array]
) -> None:
    student, nothing = tensor(values[0]).requires_grad_(), torch.zeros_like(MASK)
    mean = per_token(loss(student, tensor(values[1]), nothing), nothing)
    mean.backward()
    assert mean.item() == 0.0
    assert student.grad is not None
    assert student.grad.abs().max() == 0.0


@cases
def test_other_tokens_or_masks_are_refused(loss: Loss, reference: Reference, values: tuple[Array, Array]) -> None:
    student, teacher = tensor(values[0]), tensor(values[1])
    with pytest.raises(SignalError, match="the same rows and token ids"):
        loss(student, teacher[:2], MASK)
    with pytest.raises(SignalError, match="mask of the same batch"):
        loss(student, teacher, MASK[:, :4])


@pytest.mark.parametrize("mask", [MASK.bool(), MASK.float()], ids=["bool", "float"])
def test_masks_of_any_type_give_the_same_loss(mask: Tensor) -> None:
    s, t = tensor(STATES[0]), tensor(STATES[1])
    assert torch.equal(hidden_mse(s, t, mask), hidden_mse(s, t, MASK))
    assert per_token(torch.ones(ROWS), mask) == per_token(torch.ones(ROWS), MASK)


@pytest.mark.parametrize("loss", [hidden_cosine, hidden_mse])
def test_other_widths_need_a_projection(loss: Loss) -> None:
    with pytest.raises(ModelError, match=r"8 wide and the teacher's 12; project"):
        loss(torch.zeros(ROWS, SEQUENCE, 8), torch.zeros(ROWS, SEQUENCE, 12), MASK)


def test_projections_exist_only_where_widths_differ_and_learn() -> None:
    projections = Projections([(1, 2)], 8, 12)
    assert {name: tuple(p.shape) for name, p in projections.named_parameters()} == {
        "linears.1_to_2.weight": (12, 8),
        "linears.1_to_2.bias": (12,),
    }
    same, same_width = torch.zeros(2, 3, 12), Projections([(0, 0)], 12, 12)
    assert not list(same_width.parameters())
    assert same_width((0, 0), same) is same
    states = torch.randn(ROWS, SEQUENCE, 8, generator=torch.Generator().manual_seed(0))
    projected = projections((1, 2), states.bfloat16())
    per_token(hidden_mse(projected, tensor(STATES[1]), MASK), MASK).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projections.parameters())
    linear = projections.linears["1_to_2"]
    assert isinstance(linear, nn.Linear)
    assert torch.equal(projected, linear(states.bfloat16().float()))


@pytest.mark.parametrize("width", [8, 12])
def test_projections_refuse_a_pair_that_occurs_twice(width: int) -> None:
    with pytest.raises(ModelError, match="an entry twice"):
        Projections([(1, 1), (1, 1)], width, 12)


@pytest.mark.parametrize("loss", [attention_mse, attention_kl])
def test_other_head_counts_are_refused_or_averaged(loss: Callable[..., Tensor]) -> None:
    student, teacher = tensor(maps(2)), tensor(MAPS[1])
    with pytest.raises(ModelError, match="2 attention heads and the teacher 3; set average_heads"):
        loss(student, teacher, MASK)
    found = loss(student, teacher, MASK, average_heads=True)
    wanted = loss(student.mean(1, keepdim=True), teacher.mean(1, keepdim=True), MASK)
    assert torch.allclose(found, wanted)


def test_attention_maps_have_to_be_square() -> None:
    with pytest.raises(SignalError, match="output_attentions"):
        attention_mse(torch.zeros(4, 3, 5, 4), torch.zeros(4, 3, 5, 4), MASK)


def test_attention_scores_masked_with_infinity_are_fine() -> None:
    scores = [torch.where(MASK[:, None, None, :] == 1, tensor(m).add(1e-30).log(), -torch.inf) for m in MAPS]
    assert torch.isfinite(attention_mse(scores[0], scores[1], MASK)).all()


def test_attention_kl_normalizes_probabilities_and_allows_zeros() -> None:
    student, teacher = tensor(MAPS[0]), tensor(MAPS[1])
    wanted = attention_kl(student, teacher, MASK)
    assert torch.allclose(attention_kl(student * 0.5, teacher * 3, MASK), wanted, rtol=1e-5, atol=1e-6)
    student[1, 0, 0, 0] = 0.0
    student.requires_grad_()
    found = attention_kl(student, teacher, MASK)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_relations_allow_different_widths() -> None:
    student = RANDOM.normal(size=(ROWS, SEQUENCE, 6))
    found = self_attention_relation(tensor(student), tensor(STATES[1]), MASK, heads=6)
    assert found.tolist() == pytest.approx(reference_relation(student, STATES[1], 6), rel=2e-5, abs=1e-6)


def test_each_relation_depends_on_its_own_projection() -> None:
    sides = [SelfAttention(*(tensor(RANDOM.normal(size=(ROWS, SEQUENCE, WIDTH))) for _ in range(3))) for _ in range(2)]
    found = self_attention_relations(sides[0], sides[1], MASK, heads=3)
    assert list(found) == ["qq", "kk", "vv"]
    for name, s, t in zip(found, *sides, strict=True):
        assert torch.equal(found[name], relation(s, t, MASK))


def test_relation_heads_have_to_divide_both_widths() -> None:
    s, t = torch.zeros(ROWS, SEQUENCE, 312), torch.zeros(ROWS, SEQUENCE, 768)
    with pytest.raises(ModelError, match=r"48 relation heads do not divide the student's width of 312.* such as 24"):
        self_attention_relation(s, t, MASK)
    with pytest.raises(ModelError, match="such as 1"):
        self_attention_relation(s, t, MASK, heads=0)
