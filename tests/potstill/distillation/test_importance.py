from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.importance import measure_importance
from potstill.distillation.objective.composition import Blend, Distillation
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep, Supervised
from potstill.distillation.teachers.outputs import observe
from potstill.distillation.teachers.predict import model_inputs, predict_logits
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.pretrained.families import family_of, layers_of
from tests.potstill.distillation.test_composition import rows
from tests.potstill.models.tiny import make

CPU = torch.device("cpu")
# Losses are fp32; the effect of a smaller step would be less than their rounding errors.
EPSILON = 5e-3


def objective(data: TokenDataset) -> Objective:
    answers = predict_logits(make("electra"), data)
    return Distillation(StoredSignals(answers, np.arange(len(data))), Blend(2.0, 0.9))


def loss_of_row(model: Any, data: TokenDataset, row: int, goal: Objective) -> float:
    part = data.batch(np.array([row]))
    with torch.no_grad():
        terms = goal(observe(model, model_inputs(part, CPU)), part, OptimizerStep.of([part]))
    return float(sum(terms.values()))


def change_by_scale(model: Any, data: TokenDataset, goal: Objective, parts: list[torch.Tensor]) -> float:
    """Reference by finite differences: the mean over rows of |dL/ds| at s = 1, for weights times s."""
    kept, changes = [part.clone() for part in parts], []
    for row in range(len(data)):
        losses = []
        for scale in (1 + EPSILON, 1 - EPSILON):
            with torch.no_grad():
                for part, before in zip(parts, kept, strict=True):
                    part.copy_(before * scale)
            losses.append(loss_of_row(model, data, row, goal))
        changes.append(abs(losses[0] - losses[1]) / (2 * EPSILON))
    with torch.no_grad():
        for part, before in zip(parts, kept, strict=True):
            part.copy_(before)
    return float(np.mean(changes))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
def test_importance_is_the_derivative_of_the_loss_by_a_parts_scale(kind: str) -> None:
    torch.manual_seed(1)
    data = rows(5)
    goal, model = objective(data), make(kind).double()
    family, layers = family_of(model.config), layers_of(model)
    found = measure_importance(model, data, goal, batch_tokens=64)
    assert [layer.shape for layer in found.units] == [(family_units(model),)] * 4
    for number, unit in ((0, 3), (2, 11), (3, 0)):
        weight = layers[number].get_submodule(family.ffn_out).weight.detach()
        change = change_by_scale(model, data, goal, [weight[:, unit]])
        assert found.units[number][unit] == pytest.approx(change, rel=2e-2, abs=2e-5)
    assert [layer.shape for layer in found.heads] == [(2,)] * 4
    for number, head in ((0, 1), (3, 0)):
        weight = layers[number].get_submodule(family.attention_out).weight.detach()
        change = change_by_scale(model, data, goal, [weight[:, 16 * head : 16 * head + 16]])
        assert found.heads[number][head] == pytest.approx(change, rel=2e-2, abs=2e-5)


@pytest.mark.parametrize(("kind", "count"), [("bert", 1 + 2 * 4), ("distilbert", 1 + 2 * 4), ("electra", 2 * 4)])
def test_the_importance_of_a_state_is_summed_over_all_norms(kind: str, count: int) -> None:
    torch.manual_seed(1)
    data = rows(4)
    goal, model = objective(data), make(kind).double()
    found = measure_importance(model, data, goal, batch_tokens=64).states
    assert found.shape == (32,)
    norms = [
        module for module in model.modules() if isinstance(module, torch.nn.LayerNorm) and len(module.weight) == 32
    ]
    assert len(norms) == count  # ELECTRA's embeddings are narrower
    for state in (0, 17):
        parts = [[norm.weight.detach()[state : state + 1], norm.bias.detach()[state : state + 1]] for norm in norms]
        change = sum(change_by_scale(model, data, goal, part) for part in parts)
        assert found[state] == pytest.approx(change, rel=2e-2, abs=2e-5)


def family_units(model: Any) -> int:
    return int(getattr(model.config, family_of(model.config).intermediate_key))


def test_importance_does_not_depend_on_batches_and_leaves_the_model_unchanged() -> None:
    data = rows(40)
    data.labels[:] = np.abs(data.labels)
    model = make("bert").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, many = (measure_importance(model, data, Supervised(), batch_tokens=tokens) for tokens in (10_000, 48))
    pairs = zip([*one.units, *one.heads, one.states], [*many.units, *many.heads, many.states], strict=True)
    for left, right in pairs:
        assert np.allclose(left, right, rtol=1e-3, atol=1e-7)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_part_without_effect_on_logits_has_no_importance() -> None:
    data, model = rows(8), make("bert")
    with torch.no_grad():
        layers_of(model)[1].output.dense.weight[:, 5] = 0
    found = measure_importance(model, data, objective(data), batch_tokens=256).units
    assert found[1][5] == 0
    assert (found[1] > 0).sum() > 40


def test_a_sample_of_rows_uses_its_own_signals() -> None:
    """The objective reads signals by row numbers of the whole dataset."""
    data, model = rows(12), make("bert")
    some = np.array([2, 5, 11])
    answers = predict_logits(make("electra"), data)
    blend = Blend(2.0, 0.9)
    whole = Distillation(StoredSignals(answers, np.arange(len(data))), blend)
    alone = Distillation(StoredSignals(answers[some], np.arange(len(some))), blend)
    found = measure_importance(model, data, whole, batch_tokens=64, rows=some)
    wanted = measure_importance(model, data.select(some), alone, batch_tokens=64)
    for one, other in zip([*found.units, found.states], [*wanted.units, wanted.states], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
