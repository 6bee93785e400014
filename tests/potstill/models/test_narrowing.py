from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from potstill.errors import ModelError
from potstill.models.families import family_of, layers_of
from potstill.models.narrowing import most_important, narrow
from tests.potstill.models.tiny import CLASSES, batch, make

UNITS = [[0, 3, 5, 47], [1, 2, 30, 31], [7, 8, 9, 10], [0, 1, 2, 46]]


def units_of(model: Any) -> int:
    return int(getattr(model.config, family_of(model.config).intermediate_key))


@pytest.mark.parametrize("kind", CLASSES)
def test_units_that_are_gone_count_as_zero(kind: str, tmp_path: Path) -> None:
    model, inputs = make(kind, intermediate_size=48), batch()
    assert units_of(model) == 48
    narrowed = narrow(model, UNITS)
    narrowed.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert units_of(loaded) == 4
    with torch.no_grad():
        whole = model(**inputs).logits
        for layer, kept in zip(layers_of(model), UNITS, strict=True):
            gone = sorted(set(range(48)) - set(kept))
            layer.get_submodule(family_of(model.config).ffn_out).weight[:, gone] = 0
        wanted = model(**inputs).logits
        assert torch.allclose(loaded(**inputs).logits, wanted, atol=1e-5)
        assert not torch.allclose(whole, wanted, atol=1e-3)


def test_all_units_are_the_model_itself() -> None:
    model, inputs = make("bert"), batch()
    with torch.no_grad():
        assert torch.equal(narrow(model, [range(48)] * 4)(**inputs).logits, model(**inputs).logits)


def test_the_most_important_come_in_order_and_of_equals_the_first() -> None:
    assert most_important(np.array([1.0, 5.0, 2.0, 5.0, 2.0]), 3).tolist() == [1, 2, 3]
    with pytest.raises(ModelError, match=r"distill\.prune\.ffn is 6, but the student has 5 feed-forward units"):
        most_important(np.zeros(5), 6)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([[0]] * 3, "equally many .* for each layer"),
        ([[0], [0], [0], [0, 1]], "equally many"),
        ([[]] * 4, "at least one"),
        ([[0], [0], [48], [0]], "unit 48 does not exist: a layer has 48"),
    ],
)
def test_units_that_do_not_fit(units: list[list[int]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        narrow(make("bert"), units)
