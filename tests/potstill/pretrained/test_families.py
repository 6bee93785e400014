from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from potstill.errors import ModelError
from potstill.pretrained.families import FAMILIES, family_of, layers_of, layers_path
from potstill.pretrained.output_layer import output_layer
from tests.potstill.models.tiny import CLASSES, SIZES, batch, make

KINDS = sorted(FAMILIES)
HIDDEN, WIDE = SIZES["hidden_size"], SIZES["intermediate_size"]


def shape(module: Any) -> tuple[int, ...]:
    return tuple(module.weight.shape)


def test_every_family_is_tested() -> None:
    assert sorted(CLASSES) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_keys(kind: str) -> None:
    config, family = make(kind).config, family_of(make(kind).config)
    keys = [family.layers_key, family.heads_key, family.hidden_key, family.intermediate_key]
    assert [getattr(config, key) for key in keys] == [4, 2, HIDDEN, WIDE]
    assert all(len(getattr(config, key)) == 4 for key in family.per_layer_keys)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_the_base_model(kind: str) -> None:
    model = make(kind, type_vocab_size=2, position_biased_input=True)
    family, base = family_of(model.config), model.base_model
    word = base.get_submodule(family.word_embeddings)
    assert word is model.get_input_embeddings()
    assert family.word_embeddings.startswith(f"{family.embeddings}.")
    assert isinstance(base.get_submodule(family.embeddings_norm), nn.LayerNorm)
    names = {name for name, _ in base.named_modules() if name.startswith(f"{family.embeddings}.")}
    for path, part, rows in (
        (family.position_embeddings, "position_embeddings", 40),
        (family.token_types, "token_type_embeddings", 2),
    ):
        assert any(part in name for name in names) == (path is not None)
        if path is not None:
            assert shape(base.get_submodule(path)) == (rows, word.weight.shape[1])
    assert layers_path(base) == family.layers
    assert list(layers_of(base)) == list(layers_of(model)) == list(model.get_submodule(layers_path(model)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_layer(kind: str) -> None:
    model = make(kind)
    family = family_of(model.config)
    for place, layer in enumerate(layers_of(model)):
        if family.qkv is None:
            assert [shape(layer.get_submodule(str(part))) for part in (family.query, family.key, family.value)] == [
                (HIDDEN, HIDDEN)
            ] * 3
        else:
            assert (family.query, family.key, family.value) == (None, None, None)
            assert shape(layer.get_submodule(family.qkv)) == (3 * HIDDEN, HIDDEN)
        assert shape(layer.get_submodule(family.attention_out)) == (HIDDEN, HIDDEN)
        assert shape(layer.get_submodule(family.ffn_in)) == (WIDE * (1 + family.gated), HIDDEN)
        assert shape(layer.get_submodule(family.ffn_out)) == (HIDDEN, WIDE)
        assert isinstance(layer.get_submodule(family.ffn_norm), nn.LayerNorm)
        norm = layer.get_submodule(family.attention_norm)
        assert isinstance(norm, nn.Identity if family.bare_first_layer and place == 0 else nn.LayerNorm)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head(kind: str) -> None:
    model = make(kind)
    family = family_of(model.config)
    assert shape(model.get_submodule(family.head)) == (HIDDEN, HIDDEN)
    assert model.get_submodule(family.output) is output_layer(model)
    assert hasattr(model.base_model, "pooler") == family.pooler or model.base_model.pooler is None


def test_query_key_and_value_in_a_fused_projection() -> None:
    model = make("modernbert")
    attention = layers_of(model)[0].attn
    hidden = torch.randn(1, 5, HIDDEN)
    fused = attention.Wqkv(hidden)
    split = fused.view(1, 5, 3, -1, attention.head_dim).unbind(dim=-3)  # as ModernBertAttention.forward does
    for third, theirs in zip(fused.chunk(3, dim=-1), split, strict=True):
        assert torch.equal(third, theirs.flatten(-2))


@pytest.mark.parametrize("kind", KINDS)
def test_positions_that_count_from_the_pad_token(kind: str) -> None:
    model, inputs = make(kind), batch()
    family = family_of(model.config)
    if family.position_embeddings is None or kind == "deberta-v2":  # rotary and relative
        assert not family.positions_from_pad
        return
    table = model.base_model.get_submodule(family.position_embeddings)
    with torch.no_grad():
        before = model(**inputs).logits
        table.weight[: model.config.pad_token_id + 1] += 1
        after = model(**inputs).logits
    assert torch.equal(before, after) == family.positions_from_pad


def test_an_unsupported_class_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"gpt2 models are not supported: .* layers, attention projections .* \(bert, "
    ):
        family_of(transformers.GPT2Config())
