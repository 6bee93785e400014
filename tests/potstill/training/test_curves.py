from __future__ import annotations

import pytest

from potstill.training.curves import learning_curve
from potstill.training.loop import Outcome


def test_a_long_run_has_a_short_curve() -> None:
    history = [(step, "loss", float(step)) for step in range(1, 1001)]
    history += [(step, "loss_kl", 9.0) for step in range(1, 1001)]
    history += [(step, "assistant_1_dev", 9.0) for step in range(1, 1001)]
    history += [(10 * number, "dev", number / 1000) for number in range(1, 251)]
    curve = learning_curve(Outcome(history=history))
    assert len(curve["loss"]) == 100
    assert curve["loss"][0] == [10, pytest.approx(5.5)]
    assert curve["loss"][-1][0] == 1000
    assert len(curve["dev"]) <= 100
    assert curve["dev"][-1] == [2500, 0.25]


def test_a_run_that_trained_nothing_has_an_empty_curve() -> None:
    assert learning_curve(Outcome()) == {"loss": [], "dev": []}
