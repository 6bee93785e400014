from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.config.training_params import Training
from potstill.distillation.objective.gold_labels import Supervised
from potstill.errors import ParamsError
from potstill.models.cohort import Cohort
from potstill.training.freezing import freeze
from potstill.training.loop import train
from tests.potstill.models.tiny import make
from tests.potstill.training.test_loop import TRAIN, model, score, setting, weights


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{}, {"average_decay": 0.9}])
def test_frozen_layers_stay_and_the_others_learn(tmp_path: Path, tiny_base: Path, plan: dict[str, float]) -> None:
    trained = model(tiny_base)
    before = weights(trained)
    train(trained, TRAIN, Supervised(), score, setting(tmp_path, epochs=1, freeze_layers=2, **plan))
    changed = {name for name, value in weights(trained).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith(FROZEN)}
    assert all(weight.requires_grad for weight in trained.parameters())  # whoever trains it further


def test_the_layers_of_every_student_of_a_cohort_are_frozen() -> None:
    cohort = Cohort([make("bert"), make("bert", num_hidden_layers=2)])
    plan = Training(epochs=1, learning_rate=1e-3, freeze_layers=1)
    freeze(cohort, plan, "distill")
    frozen = {name for name, weight in cohort.named_parameters() if not weight.requires_grad}
    starts = [f"students.{n}.bert.{part}." for n in range(2) for part in ("embeddings", "encoder.layer.0")]
    assert frozen == {name for name, _ in cohort.named_parameters() if name.startswith(tuple(starts))}


FROZEN = ("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1.")


@pytest.mark.slow
def test_one_layer_has_to_learn(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ParamsError, match=r"distill\.freeze_layers is 4, but the model has 4 layers.*at most 3"):
        train(model(tiny_base), TRAIN, Supervised(), score, setting(tmp_path, freeze_layers=4))
