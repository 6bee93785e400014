"""Outlier channels, which would take most of the range that the inputs of an INT8 product share.

Dynamic INT8 has one scale for all inputs of a product. In trained encoders a few channels are many times as large as
the others, in every text and most of all in its first token (Bondarenko et al. 2021, "Understanding and Overcoming the
Challenges of Efficient Transformer Quantization"). They are divided by a constant, and the rows of the weight that
they meet are multiplied by it. That leaves the product as it is and gives all other inputs a finer scale (Xiao et al.
2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", which scales every
channel).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from potstill.data.tokens.batches import TokenDataset
from potstill.inference.runtime import session_options
from potstill.onnx_export.eight_bits import Floats
from potstill.onnx_export.four_bits import lookup_products
from potstill.onnx_export.logit_parity import feed

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# A channel is an outlier if it gets larger than this share of the channels.
USUAL = 0.99
# Products whose largest channel is at least so many times as large as that are worth another operation.
FACTOR = 2.0


def divide_outliers(source: Path, target: Path, rows: TokenDataset) -> None:
    """Write a model that gives the same results up to rounding, with inputs of products that suit one scale.

    Args:
        source: an fp32 model.
        target: the file to write.
        rows: texts on which the channels are measured.
    """
    import onnx

    model = onnx.load(source)
    products = _products(model.graph, lookup_products(source))
    for name, largest in _largest(onnx.load(source), list(products), rows).items():
        divisors = outlier_divisors(largest)
        if divisors is not None:
            _divide(model.graph, name, products[name], divisors)
    onnx.save(model, target)


def outlier_divisors(largest: Floats) -> Floats | None:
    """Choose the constant by which each channel is divided.

    Args:
        largest: [channels] the largest magnitudes of each.

    Returns:
        [channels] at least 1; None if no channel is large enough to be worth it.
    """
    usual = float(np.quantile(largest, USUAL, method="lower"))
    if usual == 0 or largest.max() < FACTOR * usual:
        return None
    divisors: Floats = np.maximum(largest / usual, 1).astype(np.float32)
    return divisors


def _products(graph: GraphProto, excluded: list[str]) -> dict[str, list[NodeProto]]:
    """Group the products with a weight by their input, except those of which a weight has other uses."""
    weights = {weight.name for weight in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    products: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and node.name not in excluded:
            products.setdefault(node.input[0], []).append(node)
    return {name: nodes for name, nodes in products.items() if all(uses[node.input[1]] == 1 for node in nodes)}


def _largest(model: ModelProto, names: list[str], rows: TokenDataset) -> dict[str, Floats]:
    """Measure the largest magnitude of each channel of some values, one text a call as in serving."""
    import onnx

    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    inputs = [item.name for item in session.get_inputs()]
    largest: dict[str, Floats] = {}
    for row in range(len(rows) if names else 0):
        values = session.run(names, feed(rows.batch(np.array([row])), inputs))
        for name, value in zip(names, values, strict=True):
            channels = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, channels), channels)
    return largest


def _divide(graph: GraphProto, name: str, products: list[NodeProto], divisors: Floats) -> None:
    """Divide a value before it enters products, and multiply the rows of their weights, in place."""
    from onnx import helper, numpy_helper

    weights = {weight.name: weight for weight in graph.initializer}
    factors, divided = f"{name}_factors", f"{name}_divided"
    graph.initializer.append(numpy_helper.from_array(1 / divisors, factors))
    first = next(index for index, node in enumerate(graph.node) if name in node.input)
    graph.node.insert(first, helper.make_node("Mul", [name, factors], [divided], divided))
    for node in products:
        weight = weights[node.input[1]]
        scaled = numpy_helper.to_array(weight) * divisors[:, None]
        weight.CopyFrom(numpy_helper.from_array(scaled, weight.name))
        node.input[0] = divided
