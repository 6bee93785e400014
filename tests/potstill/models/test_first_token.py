"""Tests of the last layer for the first token alone: the same answers and gradients with less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.potstill.models.tiny import CLASSES, batch, make

pytestmark = pytest.mark.slow

NARROWED = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")


def _tokens_of_the_last_layer(model: Any, inputs: dict[str, Any]) -> int:
    """Run the model, and return how many tokens its last feed-forward network sees."""
    from potstill.pretrained.families import family_of, layers_of

    tokens: list[int] = []
    module = layers_of(model)[-1].get_submodule(family_of(model.config).ffn_in)
    with module.register_forward_hook(lambda _, args, __: tokens.append(args[0].shape[1])):
        model(**inputs)
    return tokens[0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", NARROWED)
def test_answers_and_gradients_are_the_same(kind: str, attention: str) -> None:
    import torch

    from potstill.models.first_token import first_token_only

    model = make(kind)
    model.set_attn_implementation(attention)
    inputs = batch()
    logits, gradients = [], []
    for narrowed in (False, True):
        model.zero_grad()
        if narrowed:
            with first_token_only(model):
                assert _tokens_of_the_last_layer(model, inputs) == 1
                logits.append(model(**inputs).logits)
        else:
            logits.append(model(**inputs).logits)
        logits[-1].square().sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", sorted(CLASSES.keys() - set(NARROWED)))
def test_layers_of_other_forms_run_as_they_are(kind: str) -> None:
    from potstill.models.first_token import first_token_only

    model = make(kind)
    with first_token_only(model):
        assert _tokens_of_the_last_layer(model, batch()) == 20


def test_heads_that_read_every_token_get_every_token() -> None:
    from potstill.models.first_token import first_token_only

    model = make("bert", "ForTokenClassification")
    with first_token_only(model):
        assert model(**batch()).logits.shape == (2, 20, 3)


def test_after_the_block_the_model_is_as_before() -> None:
    from potstill.models.first_token import first_token_only

    model = make("bert")
    with pytest.raises(KeyError), first_token_only(model):
        with first_token_only(model):
            pass
        assert _tokens_of_the_last_layer(model, batch()) == 1
        raise KeyError
    assert _tokens_of_the_last_layer(model, batch()) == 20


def test_where_a_loss_reads_layers_every_token_is_computed() -> None:
    from potstill.distillation.teachers.outputs import Needs, observe

    model = make("bert")
    tokens: list[int] = []
    with model.bert.encoder.layer[-1].output.register_forward_hook(lambda _, args, __: tokens.append(args[0].shape[1])):
        observe(model, batch())
        observe(model, batch(), Needs(hidden=frozenset({4})))
    assert tokens == [1, 20]


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_exported_graph_computes_the_first_token_alone(tmp_path: Path, kind: str) -> None:
    import numpy as np
    import onnx
    import onnxruntime

    from potstill.onnx_export.eight_bits import narrowing_products
    from potstill.onnx_export.onnx_model import export_onnx

    model = make(kind, intermediate_size=64, hidden_dim=64)
    path = tmp_path / "model.onnx"
    export_onnx(model, path, pair=False)
    graph = onnx.load(path)
    products = [node.output[0] for node in graph.graph.node if node.name in narrowing_products(path)]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in products)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    inputs = batch()
    logits, *states = session.run(["logits", *products], {name: value.numpy() for name, value in inputs.items()})
    assert [value.shape[1] for value in states] == [20, 20, 20, 1]
    np.testing.assert_allclose(logits, model(**inputs).logits.detach().numpy(), atol=1e-4)
