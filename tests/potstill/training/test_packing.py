from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from potstill.config.training_params import Training
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised
from potstill.distillation.teachers.outputs import observe
from potstill.distillation.teachers.predict import model_inputs, predict_logits
from potstill.errors import ModelError
from potstill.training.hotpath import training_attention
from potstill.training.loop import Setting, train
from potstill.training.packing import ATTENTION, PackedLayout, choose_packing, packed
from tests.potstill.models.tiny import make
from tests.potstill.training.test_adversarial import rows

CPU = torch.device("cpu")
PLAIN = ["bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"]
PLAN = Training(epochs=1, learning_rate=1e-3)


def test_indices_and_bounds_are_those_of_the_real_tokens() -> None:
    data = TokenDataset(np.arange(5, 12, dtype=np.int32), np.array([3, 1, 3]), None, np.zeros(3, dtype=np.int64), 0)
    found = PackedLayout.of(data.batch(np.array([1, 0])), CPU)
    assert found.indices.tolist() == [0, 3, 4, 5]
    assert found.bounds.tolist() == [0, 1, 4]
    assert found.bounds.dtype == torch.int32
    assert found.longest == 3


def gradients(model: Any, data: TokenDataset, *, packing: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute loss terms and gradients of a batch with padding."""
    batch = data.batch(np.arange(len(data)))
    model.zero_grad()
    with training_attention(model, CPU, packing=packing):
        assert model.config._attn_implementation == (ATTENTION if packing else "eager")
        if packing:
            with packed(model, batch, CPU):
                outputs = observe(model, model_inputs(batch, CPU))
        else:
            outputs = observe(model, model_inputs(batch, CPU))
    loss = Supervised()(outputs, batch, OptimizerStep.of([batch]))["ce"]
    loss.backward()
    grads = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.detach(), grads


@pytest.mark.parametrize("kind", PLAIN)
def test_loss_and_gradients_equal_those_of_padded_rows(kind: str) -> None:
    model, data = make(kind), rows(7)
    assert data.batch(np.arange(7)).attention_mask.min() == 0
    wanted, expected = gradients(model, data, packing=False)
    found, grads = gradients(model, data, packing=True)
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)
    assert grads.keys() == expected.keys()
    for name, gradient in grads.items():
        assert gradient.numpy() == pytest.approx(expected[name].numpy(), abs=1e-5), name


def test_layers_see_no_padding() -> None:
    model, data = make("bert"), rows(7)
    batch = data.batch(np.arange(7))
    seen: list[torch.Size] = []
    first = model.base_model.encoder.layer[0].intermediate
    handle = first.register_forward_hook(lambda _, args, output: seen.append(args[0].shape))
    with training_attention(model, CPU, packing=True), packed(model, batch, CPU):
        model(**model_inputs(batch, CPU))
    handle.remove()
    assert seen == [(1, batch.tokens, 32)]


def test_rows_are_padded_outside_of_the_block() -> None:
    model, data = make("bert"), rows(20)
    wanted = predict_logits(model, data)
    before = model.config._attn_implementation
    with training_attention(model, CPU, packing=True):
        assert predict_logits(model, data, batch_tokens=64) == pytest.approx(wanted, abs=1e-5)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("terms", [False, True])
def test_a_run_ends_with_the_same_weights(tmp_path: Path, terms: bool) -> None:
    from potstill.distillation.objective.composition import Blend, Distillation, make_terms
    from potstill.distillation.teachers.providers import LiveTeacher
    from tests.potstill.distillation.test_composition import config

    teacher, ended = make("bert"), []
    for packing in (False, True):
        torch.manual_seed(4)
        student = make("bert", num_hidden_layers=2)
        # A term on layers for half of the steps, which are then padded.
        looks = [config(kind="hidden", schedule="decay", fraction=0.5)] if terms else []
        goal = Distillation(LiveTeacher(teacher, CPU), Blend(2.0, 0.5), make_terms(looks, student, teacher, seed=1))
        plan = Training(epochs=2, learning_rate=1e-3, batch_tokens=128, dropout=0.0, packing=packing)
        folder = tmp_path / str(packing)
        train(student, rows(40), goal, lambda _: 0.0, Setting("distill", plan, 5, CPU, "fp32", folder))
        ended.append(student.state_dict())
    for name, value in ended[0].items():
        # A key's bias does not change the softmax; its gradient is a rounding error, which AdamW turns into a step.
        if not name.endswith("key.bias"):
            assert ended[1][name].numpy() == pytest.approx(value.numpy(), abs=1e-4), name


def test_auto_is_for_gpus_and_true_is_refused_if_not_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    bert = make("bert")
    assert choose_packing("auto", bert, PLAN, CPU, "fp32") is False
    assert choose_packing(False, bert, PLAN, CPU, "fp32") is False
    assert choose_packing(True, bert, PLAN, CPU, "fp32") is True
    for kind in ("deberta-v2", "mpnet", "modernbert"):
        with pytest.raises(ModelError, match=f"packing is true, but {kind} models add positions"):
            choose_packing(True, make(kind), PLAN, CPU, "fp32")
    cuda = torch.device("cuda")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 0))
    small = Training(epochs=1, learning_rate=1e-3, dropout=0.0)
    assert choose_packing("auto", bert, small, cuda, "bf16") is True
    for plan, precision, words in ((small, "fp32", "precision bf16 or fp16"), (PLAN, "bf16", "set dropout to 0")):
        assert choose_packing("auto", bert, plan, cuda, precision) is False
        with pytest.raises(ModelError, match=words):
            choose_packing(True, bert, plan, cuda, precision)
    narrow = make("bert", hidden_size=24, num_attention_heads=6)
    with pytest.raises(ModelError, match="heads have a size of 4"):
        choose_packing(True, narrow, small, cuda, "bf16")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (7, 5))
    with pytest.raises(ModelError, match="too old"):
        choose_packing(True, bert, small, cuda, "bf16")
    monkeypatch.setattr("potstill.training.packing._KERNEL", "torch.nn.attention.gone")
    with pytest.raises(ModelError, match=r"has no torch\.nn\.attention\.gone"):
        choose_packing(True, bert, small, cuda, "bf16")


def test_attention_dropout_is_that_of_the_plan() -> None:
    model = make("bert", attention_probs_dropout_prob=0.5)
    batch = rows(7).batch(np.arange(7))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    with training_attention(model, CPU, packing=True), packed(model.train(), batch, CPU), torch.no_grad():
        first = model(**model_inputs(batch, CPU)).logits
        assert torch.equal(model(**model_inputs(batch, CPU)).logits, first)
