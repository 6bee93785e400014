from __future__ import annotations

import pytest

from potstill.config.term_params import TermBase
from potstill.distillation.objective.balancing import lasts_to_the_end, weight_at


def term(weight: float, schedule: str = "constant", fraction: float = 1.0) -> TermBase:
    return TermBase(weight=weight, schedule=schedule, fraction=fraction)  # type: ignore[arg-type]


def weights(config: TermBase, total: int) -> list[float]:
    return [weight_at(config, step, total) for step in range(total)]


def test_schedules() -> None:
    assert weights(term(0.5), 4) == [0.5] * 4
    assert weights(term(2.0, "decay", 0.5), 8) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0, 0, 0, 0])
    assert weights(term(2.0, "warmup", 0.5), 8) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2, 2, 2, 2])


@pytest.mark.parametrize("kind", ["decay", "warmup"])
@pytest.mark.parametrize("total", [1, 3, 7])
def test_schedules_of_the_whole_run_keep_a_weight_at_every_step(kind: str, total: int) -> None:
    whole = term(1.0, kind)
    assert lasts_to_the_end(whole)
    assert all(0 < weight <= 1 for weight in weights(whole, total))


def test_a_fraction_shorter_than_a_step_is_one_step() -> None:
    assert weights(term(1.0, "decay", 0.01), 3) == [1.0, 0.0, 0.0]
    assert weights(term(1.0, "warmup", 0.01), 3) == [1.0, 1.0, 1.0]
