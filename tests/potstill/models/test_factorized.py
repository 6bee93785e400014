from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from potstill.errors import ModelError
from potstill.models.students.factorized import FactorizedEmbedding, factorize, has_rank, merge
from tests.potstill.models.tiny import CLASSES, batch, make


def table(model: Any) -> Any:
    return model.get_input_embeddings().weight.detach().clone()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**batch()).logits
    return found


@pytest.mark.parametrize("kind", CLASSES)
def test_a_factorized_model_equals_the_model_with_the_product(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    whole, before = table(model), logits(model)
    factorize(model, 6)
    found = logits(model)
    assert not torch.allclose(found, before, atol=1e-3)
    assert isinstance(model.get_input_embeddings(), FactorizedEmbedding)
    merge(model)
    assert torch.allclose(logits(model), found, atol=1e-5)
    left, values, right = torch.linalg.svd(whole.double(), full_matrices=False)
    nearest = left[:, :6] * values[:6] @ right[:6]
    assert torch.allclose(table(model).double(), nearest, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    merge(model)  # nothing is left to do


def test_a_table_of_that_rank_stays_the_same() -> None:
    model = make("bert")
    factorize(model, 6)
    merge(model)
    whole, before = table(model), logits(model)
    assert int(torch.linalg.matrix_rank(whole)) == 6
    factorize(model, 6, np.arange(50))
    assert torch.allclose(logits(model), before, atol=1e-5)
    merge(model)
    assert torch.allclose(table(model), whole, atol=1e-5)


def test_has_rank() -> None:
    model = make("bert")
    assert not has_rank(model, 6)
    factorize(model, 6)
    merge(model)
    assert has_rank(model, 6)
    assert has_rank(model, 31)
    assert not has_rank(model, 5)
    assert not has_rank(model, 32)  # no product of two would be smaller
    torch.manual_seed(0)
    with torch.no_grad():  # as if trained: the columns differ in size by orders
        factors = torch.randn(50, 6) * torch.tensor([100.0, 30, 10, 1, 0.3, 0.1])
        model.get_input_embeddings().weight.copy_(factors @ torch.randn(6, 32))
    assert has_rank(model, 6)
    assert not has_rank(model, 5)


def test_frequent_tokens_have_the_smallest_error() -> None:
    counts = np.zeros(40, dtype=np.int64)  # counts end at the last id that was seen; later ids count as never seen
    counts[7] = 1_000_000
    errors = []
    for weights in (None, counts):
        model = make("bert")
        whole = table(model)
        factorize(model, 6, weights)
        merge(model)
        errors.append((table(model) - whole).norm(dim=1))
    assert errors[1][7] < 0.01 * errors[0][7]
    assert errors[1].sum() > errors[0].sum()


def test_both_factors_learn() -> None:
    model = make("bert")
    factorize(model, 6)
    model(**batch()).logits.sum().backward()
    names = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert {f"bert.embeddings.word_embeddings.{part}" for part in ("factors", "basis")} <= names
    model.get_input_embeddings().requires_grad_(False)  # as `freeze_embeddings` does
    assert not any(weight.requires_grad for weight in model.get_input_embeddings().parameters())


@pytest.mark.parametrize("rank", [32, 100])
def test_a_rank_of_the_width_is_refused(rank: int) -> None:
    with pytest.raises(ModelError, match=rf"vocabulary\.rank is {rank}, but .* token embeddings are 32 wide"):
        factorize(make("bert"), rank)
