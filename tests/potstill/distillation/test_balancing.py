from __future__ import annotations

import math

import pytest
import torch

from potstill.distillation.objective.balancing import Balancer, Schedule
from potstill.errors import ParamsError


def weights(schedule: Schedule, total: int) -> list[float]:
    return [schedule.at(step, total) for step in range(total)]


def test_schedules() -> None:
    assert weights(Schedule(0.5), 4) == [0.5] * 4
    assert weights(Schedule(2.0, "decay", 0.5), 8) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0, 0, 0, 0])
    assert weights(Schedule(2.0, "warmup", 0.5), 8) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2, 2, 2, 2])


@pytest.mark.parametrize("kind", ["decay", "warmup"])
@pytest.mark.parametrize("total", [1, 3, 7])
def test_schedules_of_the_whole_run_keep_a_weight_at_every_step(kind: str, total: int) -> None:
    schedule = Schedule(1.0, kind)  # type: ignore[arg-type]
    assert schedule.lasts_to_the_end
    assert all(0 < weight <= 1 for weight in weights(schedule, total))


def test_a_fraction_shorter_than_a_step_is_one_step() -> None:
    assert weights(Schedule(1.0, "decay", 0.01), 3) == [1.0, 0.0, 0.0]
    assert weights(Schedule(1.0, "warmup", 0.01), 3) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "finite number of 0 or more"),
        ((math.nan,), "finite number of 0 or more"),
        ((1.0, "cosine"), "set one of constant, decay, warmup"),
        ((1.0, "decay", 0.0), "above 0, up to 1"),
        ((1.0, "decay", 1.5), "above 0, up to 1"),
    ],
)
def test_impossible_schedules_are_refused(arguments: tuple[float], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        Schedule(*arguments)


BALANCER = Balancer({"kl": Schedule(0.9), "qq": Schedule(2.0, "decay", 0.5), "off": Schedule(0.0)})


def terms(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def sum_of(weighted: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(weighted.values())).sum()


def test_terms_are_multiplied_by_their_weights() -> None:
    given = terms(kl=10.0, qq=3.0)
    weighted = BALANCER(given, step=1, total=4)
    total = sum_of(weighted)
    assert {name: term.item() for name, term in weighted.items()} == pytest.approx({"kl": 9.0, "qq": 3.0})
    assert total.item() == pytest.approx(12.0)
    gradients = torch.autograd.grad(total, list(given.values()))
    assert [gradient.item() for gradient in gradients] == pytest.approx([0.9, 1.0])


def test_a_term_of_weight_zero_may_be_missing_or_nan() -> None:
    assert BALANCER.weights(3, 4) == {"kl": 0.9, "qq": 0.0, "off": 0.0}
    assert sum_of(BALANCER(terms(kl=10.0), 3, 4)).item() == pytest.approx(9.0)
    given = terms(kl=10.0, qq=math.nan)
    weighted = BALANCER(given, 3, 4)
    total = sum_of(weighted)
    total.backward()
    assert total.item() == pytest.approx(9.0)
    assert weighted["qq"].item() == 0.0
    assert given["qq"].grad is None


def test_a_misspelt_name_is_refused() -> None:
    """TinyBERT's per-task settings never applied: their key was misspelt."""
    with pytest.raises(ParamsError, match="the loss term kI has no weight; give it one, as kl, qq, off have"):
        BALANCER(terms(kI=1.0, qq=1.0), 0, 4)
    with pytest.raises(ParamsError, match="the loss term qq has a weight, but this objective gives only kl"):
        BALANCER(terms(kl=1.0), 0, 4)


def test_a_term_per_row_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"kl is \[2\], not a scalar"):
        BALANCER({"kl": torch.ones(2), "qq": torch.tensor(1.0)}, 0, 4)


@pytest.mark.parametrize(
    "schedules", [{}, {"kl": Schedule(0.0)}, {"kl": Schedule(1.0, "decay", 0.5), "ce": Schedule(0.0)}]
)
def test_a_run_without_a_lasting_term_is_refused(schedules: dict[str, Schedule]) -> None:
    with pytest.raises(ParamsError, match="to the end of the run"):
        Balancer(schedules)
