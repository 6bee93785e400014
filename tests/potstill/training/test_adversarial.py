from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from potstill.config.training_params import Adversarial, Training
from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.distillation.objective.composition import Blend, Distillation
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised, Terms
from potstill.distillation.teachers.outputs import Outputs
from potstill.distillation.teachers.predict import model_inputs
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.training.adversarial import captured_embeddings, perturbation, perturbed_embeddings
from potstill.training.loop import Setting, train
from tests.potstill.models.tiny import CLASSES, make

CPU = torch.device("cpu")


def rows(count: int, seed: int = 0) -> TokenDataset:
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 12, count)
    flat = random.integers(5, 50, lengths.sum()).astype(np.int32)
    return TokenDataset(flat, lengths, None, random.integers(0, 3, count), 1)


def test_a_perturbation_has_its_length_in_each_row_and_is_0_on_padding() -> None:
    gradient = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    gradient[2] = 0
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    found = perturbation(gradient, mask, 0.7)
    for row in range(2):
        wanted = gradient[row] * mask[row, :, None]
        assert found[row].numpy() == pytest.approx((0.7 * wanted / wanted.norm()).numpy())
    assert found[1, 2:].abs().max() == 0
    assert found[2].abs().max() == 0
    # A scaled loss (fp16) gives the same perturbation; a gradient that overflowed gives none.
    assert perturbation(gradient * 65536, mask, 0.7).numpy() == pytest.approx(found.numpy(), rel=1e-5)
    assert perturbation(gradient * float("inf"), mask, 0.7).abs().max() == 0


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", CLASSES)
def test_embeddings_are_captured_and_perturbed_in_every_class(kind: str, frozen: bool) -> None:
    model, data = make(kind), rows(6)
    model.get_input_embeddings().requires_grad_(not frozen)
    inputs = model_inputs(data.batch(np.arange(6)), CPU)
    with captured_embeddings(model) as caught:
        plain = model(**inputs).logits
        plain.sum().backward()
    (embeddings,) = caught
    width = model.get_input_embeddings().weight.shape[1]
    assert embeddings.shape == (*inputs["input_ids"].shape, width)
    assert embeddings.grad is not None
    assert float(embeddings.grad.abs().max()) > 0
    with torch.no_grad():
        with perturbed_embeddings(model, torch.zeros(width)):
            assert torch.equal(model(**inputs).logits, plain)
        with perturbed_embeddings(model, torch.ones(width)):
            assert not torch.equal(model(**inputs).logits, plain)
        assert torch.equal(model(**inputs).logits, plain)


class Recorded(Supervised):
    """Records the needs and the loss of each pass of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        found = super().forward(outputs, batch, step)
        self.losses.append(found["ce"].item())
        return found


def one_step(folder: Path, goal: Any, data: TokenDataset, **changes: Any) -> tuple[Any, Any]:
    """Take a single plain gradient step, and return the student and the outcome."""
    torch.manual_seed(8)
    student = make("bert")
    plan = {"epochs": 1, "learning_rate": 1e-3, "batch_tokens": 4096, "dropout": 0.0, "warmup": 0.0} | changes
    setting = Setting("distill", Training(**plan), 3, CPU, "fp32", folder)
    return student, train(student, data, goal, lambda _: 0.0, setting)


def test_the_second_pass_has_a_higher_loss_and_its_gradient_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, goal, taken = rows(16), Recorded(), []

    def take(parameters: list[torch.Tensor], norm: torch.Tensor, limit: float) -> None:
        taken.append([weight.grad.clone() for weight in parameters if weight.grad is not None])

    monkeypatch.setattr("potstill.training.loop._clip", take)
    _, outcome = one_step(tmp_path / "a", goal, data, adversarial=Adversarial(epsilon=0.5, weight=0.3))
    clean, harder = goal.losses
    assert harder > clean + 1e-3
    last = {name: value for _, name, value in outcome.history}
    assert last["loss_ce"] == pytest.approx(clean)
    assert last["loss_adversarial"] == pytest.approx(0.3 * harder)
    assert last["loss"] == pytest.approx(clean + 0.3 * harder)
    # Reference: a plain pass, its gradient by the embeddings, and a pass with perturbed embeddings.
    torch.manual_seed(8)
    model = make("bert").train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = data.batch(np.argsort(data.lengths, kind="stable"))
    labels, inputs = torch.from_numpy(batch.labels), model_inputs(batch, CPU)
    inputs.pop("input_ids")
    table = model.get_input_embeddings()
    embeddings = table(torch.from_numpy(batch.input_ids))
    loss = nn.functional.cross_entropy(model(inputs_embeds=embeddings, **inputs).logits, labels)
    (gradient,) = torch.autograd.grad(loss, embeddings, retain_graph=True)
    step = 0.5 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
    moved = nn.functional.cross_entropy(model(inputs_embeds=embeddings + step, **inputs).logits, labels)
    (loss + 0.3 * moved).backward()
    wanted = [weight.grad for weight in model.parameters() if weight.grad is not None]
    for found, expected in zip(taken[0], wanted, strict=True):
        assert found.numpy() == pytest.approx(expected.numpy(), abs=2e-5)


def test_the_stored_signal_of_the_clean_row_teaches_the_perturbed_row(tmp_path: Path) -> None:
    data = rows(32)
    signals = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    goal = Distillation(StoredSignals(signals, np.arange(32)), Blend(2.0, 1.0))
    _, outcome = one_step(tmp_path, goal, data, adversarial=Adversarial(epsilon=0.1), freeze_embeddings=True)
    last = {name: value for _, name, value in outcome.history}
    assert last["loss_adversarial"] > last["loss_kl"] > 0
    assert last["loss"] == pytest.approx(last["loss_adversarial"] + last["loss_kl"] + last["loss_ce"])
