from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from potstill.training.dropout import set_dropout
from tests.potstill.models.tiny import CLASSES, batch, make


def logits(model: Any) -> Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        found: Tensor = model(**batch()).logits
    return found


@pytest.mark.parametrize("kind", CLASSES)
def test_dropout_can_be_switched_off_in_every_class(kind: str) -> None:
    own = {"attention_dropout": 0.3, "mlp_dropout": 0.3, "embedding_dropout": 0.3} if kind == "modernbert" else {}
    model = make(kind, **own)
    wanted = logits(model)
    model.train()
    assert not torch.allclose(logits(model), wanted, atol=1e-4)
    set_dropout(model, 0.0)
    assert torch.allclose(logits(model), wanted, atol=1e-5)


@pytest.mark.parametrize("zero", [0.0, 0])
def test_modernbert_without_dropout_gets_it_everywhere(zero: float) -> None:
    """Its attention has dropout as a number, and its output has no module if the config says 0."""
    model = make("modernbert", attention_dropout=zero).train()
    set_dropout(model, 0.25)
    attention = model.model.layers[0].attn
    assert attention.attention_dropout == 0.25
    assert attention.out_drop.p == 0.25
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}
    assert not torch.equal(logits(model), logits(model.eval()))
