from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from potstill.onnx_export.onnx_model import export_onnx
from tests.potstill.models.tiny import CLASSES, batch, make

pytestmark = pytest.mark.slow

TOKENS = 20


def compute(path: Path, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """All values of the graph, by name."""
    model = onnx.load(path)
    outputs = {output.name for output in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {name: part.numpy() for name, part in inputs.items()}), strict=True))


def tokens_of_products(path: Path, values: dict[str, Any]) -> list[int]:
    """For each product with a weight, in the order of the graph, of how many tokens it is computed."""
    graph = onnx.load(path).graph
    weights = {weight.name for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    return [values[node.output[0]].shape[1] for node in products]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_classifier_computes_its_last_layer_for_the_first_token(kind: str, tmp_path: Path) -> None:
    model, inputs = make(kind, num_hidden_layers=2), batch(length=TOKENS)
    export_onnx(model, tmp_path / "model.onnx", pair=False)
    values = compute(tmp_path / "model.onnx", inputs)
    with torch.no_grad():
        np.testing.assert_allclose(values["logits"], model(**inputs).logits.numpy(), atol=1e-5)
    tokens = tokens_of_products(tmp_path / "model.onnx", values)
    # The output of the attention and both products of the feed-forward network; where the class allows, the queries.
    assert tokens[-3:] == [1, 1, 1]
    assert tokens.count(1) == (3 if kind in ("deberta-v2", "modernbert") else 4)


@pytest.mark.parametrize(
    ("kind", "head", "more"),
    [
        ("bert", "ForTokenClassification", {}),
        ("bert", "ForQuestionAnswering", {"num_labels": 2}),
        ("modernbert", "ForSequenceClassification", {"classifier_pooling": "mean"}),
    ],
)
def test_a_head_that_reads_all_tokens_keeps_them(kind: str, head: str, more: dict[str, Any], tmp_path: Path) -> None:
    model, inputs = make(kind, head, num_hidden_layers=2, **more), batch(length=TOKENS)
    export_onnx(model, tmp_path / "model.onnx", pair=False)
    values = compute(tmp_path / "model.onnx", inputs)
    with torch.no_grad():
        expected = model(**inputs)
    for name in expected:
        np.testing.assert_allclose(values[name], expected[name].numpy(), atol=1e-5)
    assert set(tokens_of_products(tmp_path / "model.onnx", values)) == {TOKENS}
