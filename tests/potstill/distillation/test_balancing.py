from __future__ import annotations

import pytest

from potstill.distillation.objective.balancing import Schedule


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
