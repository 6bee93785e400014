from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.config.training_params import Lora, Training
from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised, Terms
from potstill.distillation.teachers.outputs import Outputs
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ModelError
from potstill.models.cohort import Cohort
from potstill.training.loop import Outcome, Setting, train
from potstill.training.lora import low_rank, target_layers
from tests.potstill.models.tiny import CLASSES, batch, make
from tests.scores import accuracy

CPU = torch.device("cpu")
LORA = {"rank": 4, "alpha": 8, "dropout": 0.1}


def rows(count: int, seed: int) -> TokenDataset:
    """Label 1 where token 7 is in the row."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 12, count)
    flat = random.integers(10, 50, lengths.sum()).astype(np.int32)
    labels = random.integers(0, 2, count)
    flat[np.cumsum(lengths)[labels == 1] - 2] = 7
    return TokenDataset(flat, lengths, None, labels, 0)


TRAIN, DEV = rows(300, 0), rows(80, 1)


def score(found: Any) -> float:
    return accuracy(predict_logits(found, DEV), DEV.labels)


def setting(folder: Path, **changes: object) -> Setting:
    plan = {"epochs": 4, "learning_rate": 1e-2, "batch_tokens": 128, "checkpoint_seconds": 1e-6, "lora": LORA} | changes
    return Setting("teacher", Training.model_validate(plan), 11, CPU, "fp32", folder)


def weights(found: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in found.state_dict().items()}


@pytest.mark.slow
def test_a_model_learns_with_few_weights_and_ends_as_a_plain_model(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(6)
    model = make("bert", num_labels=2, num_hidden_layers=2)
    before = weights(model)
    outcome = train(model, TRAIN, Supervised(), score, setting(tmp_path / "checkpoints", epochs=5))
    assert outcome.score == max(outcome.scores) > 0.8
    after = weights(model)
    assert list(after) == list(before)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    adapted = {f"bert.encoder.layer.{n}.attention.self.{part}.weight" for n in range(2) for part in ("query", "value")}
    head = {name for name in before if name.startswith(("classifier.", "bert.pooler."))}
    assert changed == adapted | head
    assert type(model.bert.encoder.layer[0].attention.self.query) is torch.nn.Linear
    assert not hasattr(model, "peft_config")
    assert all(weight.requires_grad for weight in model.parameters())
    assert score(model) == pytest.approx(outcome.score)  # merged, it answers as it was scored
    model.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors"}
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert np.array_equal(predict_logits(again.eval(), DEV), predict_logits(model, DEV))


def test_the_scaled_product_is_merged(tmp_path: Path) -> None:
    """The merged weight is W + alpha / rank * B A, with which logits equal those of the unmerged model."""
    model, inputs = make("bert"), batch()
    path = "bert.encoder.layer.2.intermediate.dense"
    before = model.get_submodule(path).weight.detach().clone()
    with low_rank(model, Lora(rank=3, alpha=12, targets=["ffn_in"]), "teacher"):
        layer = model.get_submodule(path)
        matrices = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        assert [tuple(matrix.shape) for matrix in matrices] == [(3, 32), (48, 3)]
        assert not matrices[1].any()  # it starts as the model that it is
        with torch.no_grad():
            matrices[1].normal_(generator=torch.Generator().manual_seed(4))
            unmerged = model(**inputs).logits
        product = 12 / 3 * matrices[1].detach() @ matrices[0].detach()
    assert torch.allclose(model.get_submodule(path).weight, before + product, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, unmerged, atol=1e-4)


class Stop(Exception):
    """Stands for a power cut."""


class CutShort(Supervised):
    def forward(self, outputs: Outputs, part: Batch, step: OptimizerStep) -> Terms:
        if step.index == 17:
            raise Stop
        return super().forward(outputs, part, step)


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{}, {"average_decay": 0.9, "dropout": 0.0, "freeze_embeddings": True}])
def test_interrupted_and_resumed_equals_straight_through_to_the_bit(tmp_path: Path, plan: dict[str, object]) -> None:
    def run(folder: str, objective: Supervised) -> tuple[Any, Outcome]:
        torch.manual_seed(5)
        model = make("bert", num_labels=2)
        torch.manual_seed(len(folder))  # whatever the process did
        return model, train(model, TRAIN, objective, score, setting(tmp_path / folder, epochs=2, **plan))

    straight, wanted = run("straight", Supervised())
    with pytest.raises(Stop):
        run("cut", CutShort())
    resumed, found = run("cut", Supervised())
    assert found.resumed_at == 17
    assert found.history == wanted.history
    other = weights(straight)
    assert all(torch.equal(value, other[name]) for name, value in weights(resumed).items())


@pytest.mark.slow
def test_the_plans_dropout_does_not_change_that_of_the_matrices(tmp_path: Path) -> None:
    seen = []

    class Looks(Supervised):
        def forward(self, outputs: Outputs, part: Batch, step: OptimizerStep) -> Terms:
            seen.append({module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)})
            return super().forward(outputs, part, step)

    model = make("bert", num_labels=2)
    train(model, TRAIN, Looks(), score, setting(tmp_path, epochs=1, dropout=0.0))
    assert seen[0] == {0.0, 0.1}


@pytest.mark.slow
def test_a_moving_average_has_exactly_the_trained_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = make("bert", num_labels=2)
    train(model, TRAIN, Supervised(), score, setting(tmp_path, epochs=1, average_decay=0.9))
    names = set(load_file(sorted(tmp_path.glob("step-*"))[-1] / "average.safetensors"))
    parts = ("lora_A", "lora_B", "classifier", "pooler")
    assert names
    assert all(any(part in name for part in parts) for name in names)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_adapts_its_query_and_value_projections(kind: str) -> None:
    model = make(kind)
    names = target_layers(model, None, "teacher")
    assert len(names) == (4 if kind == "modernbert" else 8)
    before = {name: model.get_submodule(name).weight.detach().clone() for name in names}
    inputs = batch()
    with torch.no_grad():
        wanted = model(**inputs).logits
    with low_rank(model, Lora(), "teacher"):
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        adapted = {name.split(".lora_")[0] for name in trained if ".lora_" in name}
        assert adapted == set(names)
        assert any("classifier" in name for name in trained)
        assert not any("embedding" in name for name in trained)
        assert torch.allclose(model(**inputs).logits, wanted, atol=1e-5)
    assert all(torch.equal(model.get_submodule(name).weight, value) for name, value in before.items())


def test_every_student_of_a_cohort_adapts() -> None:
    students = [make("bert"), make("bert", num_hidden_layers=2)]
    cohort = Cohort(students)
    with low_rank(cohort, Lora(targets=["attention_out"]), "distill"):
        names = [name for name, weight in cohort.named_parameters() if weight.requires_grad and ".lora_A." in name]
        assert len(names) == 4 + 2
    assert not any("lora" in name for name in cohort.state_dict())


def test_layers_that_a_class_lacks_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"teacher\.lora\.targets names query, which layers of a modernbert do not have; they have qkv"
    ):
        target_layers(make("modernbert"), ["query"], "teacher")
    with pytest.raises(ModelError, match=r"names qkv, which layers of a bert do not have; they have query, key, value"):
        target_layers(make("bert"), ["value", "qkv"], "finetune")
