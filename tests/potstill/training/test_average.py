from __future__ import annotations

import pytest
import torch
from torch import nn

from potstill.training.average import WeightAverage


def test_the_average_is_the_weighted_mean_of_the_steps() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, 0.5)
    expected, weights = layer.weight.item(), [1.0, -2.0, 4.0, 0.5, 3.0]
    for number, value in enumerate(weights, start=1):
        nn.init.constant_(layer.weight, value)
        average.update()
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    assert average.weights["weight"].item() == pytest.approx(expected)


def test_the_model_has_the_average_only_inside_the_block_even_after_an_error() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, 0.9)
    nn.init.constant_(layer.weight, 7.0)
    with pytest.raises(ZeroDivisionError), average.applied():
        assert torch.equal(layer.weight.detach(), average.weights["weight"])
        _ = 1 / 0
    assert layer.weight.item() == 7.0


def test_frozen_weights_are_not_averaged() -> None:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    assert list(WeightAverage(layer, 0.9).weights) == ["weight"]
