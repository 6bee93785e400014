from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.distillation.objective.gold_labels import Supervised
from potstill.errors import ParamsError
from potstill.training.loop import train
from tests.potstill.training.test_loop import TRAIN, model, score, setting, weights


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{}, {"average_decay": 0.9}])
def test_frozen_layers_stay_and_the_others_learn(tmp_path: Path, tiny_base: Path, plan: dict[str, float]) -> None:
    trained = model(tiny_base)
    before = weights(trained)
    train(trained, TRAIN, Supervised(), score, setting(tmp_path, epochs=1, freeze_layers=2, **plan))
    changed = {name for name, value in weights(trained).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith(FROZEN)}


FROZEN = ("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1.")


@pytest.mark.slow
def test_one_layer_has_to_learn(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ParamsError, match=r"distill\.freeze_layers is 4, but the model has 4 layers.*at most 3"):
        train(model(tiny_base), TRAIN, Supervised(), score, setting(tmp_path, freeze_layers=4))
