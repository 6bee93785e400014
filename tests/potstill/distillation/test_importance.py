from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from potstill.data.batches import TokenDataset
from potstill.distillation.composition import Blend, Distillation
from potstill.distillation.importance import unit_importance
from potstill.distillation.objective import Objective, Supervised, Window
from potstill.distillation.outputs import observe
from potstill.distillation.signals import StoredSignals
from potstill.models.families import family_of, layers_of
from potstill.training.predict import model_inputs, predict_logits
from tests.potstill.distillation.test_composition import rows
from tests.potstill.models.tiny import make

CPU = torch.device("cpu")
# Losses are fp32: a smaller step would drown in their rounding.
EPSILON = 3e-3


def objective(data: TokenDataset) -> Objective:
    answers = predict_logits(make("electra"), data)
    return Distillation(StoredSignals(answers, np.arange(len(data))), Blend(2.0, 0.9))


def loss_of_row(model: Any, data: TokenDataset, row: int, goal: Objective) -> float:
    part = data.batch(np.array([row]))
    with torch.no_grad():
        terms = goal(observe(model, model_inputs(part, CPU)), part, Window.of([part]))
    return float(sum(terms.values()))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
def test_it_is_the_change_of_the_loss_by_the_units_scale(kind: str) -> None:
    """Against differences: each row's loss with a unit's output a little larger and a little smaller."""
    data = rows(5)
    goal, model = objective(data), make(kind).double()
    found = unit_importance(model, data, goal, batch_tokens=64)
    assert [layer.shape for layer in found] == [(family_units(model),)] * 4
    for number, unit in ((0, 3), (2, 11), (3, 0)):
        weight = layers_of(model)[number].get_submodule(family_of(model.config).ffn_out).weight
        changes = []
        for row in range(len(data)):
            losses = []
            for scale in (1 + EPSILON, 1 - EPSILON):
                with torch.no_grad():
                    kept = weight[:, unit].clone()
                    weight[:, unit] *= scale
                    losses.append(loss_of_row(model, data, row, goal))
                    weight[:, unit] = kept
            changes.append(abs(losses[0] - losses[1]) / (2 * EPSILON))
        assert found[number][unit] == pytest.approx(np.mean(changes), rel=5e-3, abs=1e-5)


def family_units(model: Any) -> int:
    return int(getattr(model.config, family_of(model.config).intermediate_key))


def test_batches_do_not_matter_and_the_model_stays_as_it_is() -> None:
    data = rows(40)
    data.labels[:] = np.abs(data.labels)
    model = make("bert").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, many = (unit_importance(model, data, Supervised(), batch_tokens=tokens) for tokens in (10_000, 48))
    for left, right in zip(one, many, strict=True):
        assert np.allclose(left, right, rtol=1e-3, atol=1e-7)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_reaches_no_logit_matters_nothing() -> None:
    data, model = rows(8), make("bert")
    with torch.no_grad():
        layers_of(model)[1].output.dense.weight[:, 5] = 0
    found = unit_importance(model, data, objective(data), batch_tokens=256)
    assert found[1][5] == 0
    assert (found[1] > 0).sum() > 40
