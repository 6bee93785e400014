from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from potstill.errors import ModelError
from potstill.models.students.narrowing import most_important, narrow, narrow_states
from potstill.pretrained.families import family_of, layers_of
from tests.potstill.models.tiny import CLASSES, batch, make

UNITS = [[0, 3, 5, 47], [1, 2, 30, 31], [7, 8, 9, 10], [0, 1, 2, 46]]


def units_of(model: Any) -> int:
    return int(getattr(model.config, family_of(model.config).intermediate_key))


@pytest.mark.parametrize("kind", CLASSES)
def test_removed_units_count_as_zero(kind: str, tmp_path: Path) -> None:
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


def test_keeping_all_units_gives_the_same_model() -> None:
    model, inputs = make("bert"), batch()
    with torch.no_grad():
        assert torch.equal(narrow(model, [range(48)] * 4)(**inputs).logits, model(**inputs).logits)


def test_the_most_important_parts_are_ascending_and_ties_take_the_first() -> None:
    assert most_important(np.array([1.0, 5.0, 2.0, 5.0, 2.0]), 3, "units").tolist() == [1, 2, 3]
    with pytest.raises(ModelError, match=r"6 units \(ffn\) were to stay, but the student has 5"):
        most_important(np.zeros(5), 6, "units (ffn)")


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([[0]] * 3, "equally many .* for each layer"),
        ([[0], [0], [0], [0, 1]], "equally many"),
        ([[]] * 4, "at least one"),
        ([[0], [0], [48], [0]], "feed-forward unit 48 does not exist: a layer has 48"),
    ],
)
def test_units_that_do_not_fit_are_refused(units: list[list[int]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        narrow(make("bert"), units)


PLAIN = ["bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"]
# Some of 32 states, for 4 heads of 8, in random order.
STATES = [30, 1, 2, 17, 9, 25, 4, 11, 12, 3, 21, 6, 28, 14, 15, 0]
HEADS = [[0, 3], [1, 2], [2, 3], [0, 1]]


def of_four_heads(kind: str) -> Any:
    more = {"distilbert": {"n_heads": 4}, "electra": {"embedding_size": 24}}.get(kind, {})
    return make(kind, num_attention_heads=4, **more)


@pytest.mark.parametrize("kind", PLAIN)
def test_the_order_of_kept_states_does_not_matter(kind: str, tmp_path: Path) -> None:
    """If a tensor were cut along another dimension than its neighbours, the order would matter."""
    model, inputs = of_four_heads(kind), batch()
    narrowed = narrow_states(model, STATES, HEADS)
    narrowed.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    others = narrow_states(model, sorted(set(range(32)) - set(STATES)), HEADS)
    with torch.no_grad():
        logits = loaded(**inputs).logits
        assert torch.allclose(narrow_states(model, sorted(STATES), HEADS)(**inputs).logits, logits, atol=1e-5)
        assert not torch.allclose(others(**inputs).logits, logits, atol=1e-2)


@pytest.mark.parametrize("kind", PLAIN)
def test_each_layer_keeps_its_own_heads(kind: str) -> None:
    model = of_four_heads(kind)
    narrowed, family = narrow_states(model, STATES, HEADS), family_of(model.config)
    for wide, thin, (first, second) in zip(layers_of(model), layers_of(narrowed), HEADS, strict=True):
        rows = [*range(8 * first, 8 * first + 8), *range(8 * second, 8 * second + 8)]
        for name in (family.query, family.key, family.value):
            assert torch.equal(thin.get_submodule(name).weight, wide.get_submodule(name).weight[rows][:, STATES])
            assert torch.equal(thin.get_submodule(name).bias, wide.get_submodule(name).bias[rows])
        out = family.attention_out
        assert torch.equal(thin.get_submodule(out).weight, wide.get_submodule(out).weight[STATES][:, rows])


def test_a_table_with_as_many_rows_as_states_keeps_its_rows() -> None:
    model = make("bert", max_position_embeddings=32, vocab_size=32, num_attention_heads=4)
    narrowed = narrow_states(model, STATES, HEADS).bert.embeddings
    assert narrowed.position_embeddings.weight.shape == (32, 16)
    assert torch.equal(narrowed.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight[:, STATES])


def test_embeddings_stay_as_wide_as_the_states() -> None:
    model = make("electra", embedding_size=32, num_attention_heads=4)
    narrowed = narrow_states(model, STATES, HEADS)
    assert narrowed.config.embedding_size == 16
    assert not hasattr(narrowed.electra, "embeddings_project")


def test_a_projection_that_the_class_would_drop_is_refused() -> None:
    with pytest.raises(ModelError, match=r"embeddings of 16 are projected to its 32 states.*distill\.prune\.width"):
        narrow_states(make("electra", embedding_size=16, num_attention_heads=4), STATES, HEADS)


@pytest.mark.parametrize("kind", ["mpnet", "deberta-v2", "modernbert"])
def test_states_of_a_class_without_plain_attention_cannot_be_removed(kind: str) -> None:
    with pytest.raises(ModelError, match=rf"a {kind} student cannot lose states.*distill\.prune\.width"):
        narrow_states(make(kind), STATES, HEADS)


@pytest.mark.parametrize(
    ("states", "heads", "message"),
    [
        (STATES[:8], HEADS, "2 heads of 8 states each need as many different states of the 32"),
        ([0] * 16, HEADS, "as many different states"),
        ([*STATES[1:], 32], HEADS, "of the 32"),
        (STATES, HEADS[:3], "equally many attention heads"),
        (STATES, [[0, 4], *HEADS[1:]], "attention head 4 does not exist: a layer has 4"),
    ],
)
def test_states_and_heads_that_do_not_fit_are_refused(states: list[int], heads: list[list[int]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        narrow_states(of_four_heads("bert"), states, heads)
