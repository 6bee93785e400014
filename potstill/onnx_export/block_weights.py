"""Weights in blocks of 8 bits, with which products are computed in fp32.

Dynamic INT8 (`eight_bits`) also rounds the inputs of every product, to one scale a call. Here only the weights are
rounded, and those of a block share a scale. So hardly an answer changes, and none depends on the other texts of its
batch. The file is an eighth larger. All operators are of the ONNX standard, which every runtime has.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from potstill.onnx_export.eight_bits import Floats, round_to_int8

# Neighbouring weights that share a scale.
BLOCK = 32
# Weights of the smallest matrix that is worth the further operators.
SMALLEST = 1024


def store_in_blocks(model: ModelProto) -> None:
    """Round the matrices of products and lookups of an fp32 model to 8 bits, in place.

    A runtime multiplies the weights of a product with their scales once, when it loads the model. A table of embeddings
    stays in 8 bits in memory; the rows of a text are multiplied when they are looked up.
    """
    graph = model.graph
    matrices = {weight.name: weight for weight in graph.initializer if _is_matrix(weight)}
    products = {node.input[1]: node for node in graph.node if _is_product(node) and node.input[1] in matrices}
    tables = dict.fromkeys(node.input[0] for node in graph.node if _is_lookup(node) and node.input[0] in matrices)
    nodes: list[NodeProto] = []
    for name, node in products.items():
        nodes += _restored(graph, matrices[name], _axis(node))
    for name in tables:
        _store(graph, matrices[name], 1, f"{name}_rows")
    for node in graph.node:
        if _is_lookup(node) and node.input[0] in tables:
            nodes += _lookup(graph, node, matrices[node.input[0]])
            continue
        if _is_product(node) and node.input[1] in products:
            node.input[1] = f"{node.input[1]}_fp32"
        nodes.append(node)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for name in matrices.keys() - {name for node in graph.node for name in node.input}:
        graph.initializer.remove(matrices[name])


def blocked(matrix: Floats, axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round a matrix symmetrically, in blocks along an axis; one block where `BLOCK` does not divide its length.

    Args:
        matrix: [rows, columns].
        axis: 0 or 1.

    Returns:
        The signed 8-bit values and their scales, whose product has the matrix's values in its order:
        [rows / block, block, columns] and [rows / block, 1, columns] along rows, or
        [rows, columns / block, block] and [rows, columns / block, 1] along columns.
    """
    length = matrix.shape[axis]
    block = BLOCK if length % BLOCK == 0 else length
    shape = [*matrix.shape]
    shape[axis : axis + 1] = [length // block, block]
    return round_to_int8(matrix.reshape(shape), axis + 1)


def _restored(graph: GraphProto, weight: TensorProto, axis: int) -> list[NodeProto]:
    """Store the weight of a product, and make the nodes that restore it in fp32."""
    name = weight.name
    _store(graph, weight, axis, f"{name}_blocks")
    graph.initializer.append(numpy_helper.from_array(np.array(weight.dims, np.int64), f"{name}_shape"))
    reshaped = helper.make_node("Reshape", [f"{name}_scaled", f"{name}_shape"], [f"{name}_fp32"])
    return [*_scaled(f"{name}_blocks", f"{name}_scaled"), reshaped]


def _lookup(graph: GraphProto, node: NodeProto, table: TensorProto) -> list[NodeProto]:
    """Make the nodes that look up stored rows and restore them in fp32."""
    rows = f"{table.name}_rows"
    ids = node.input[1]
    output = node.output[0]
    graph.initializer.append(numpy_helper.from_array(np.array([table.dims[1]], np.int64), f"{output}_width"))
    return [
        helper.make_node("Gather", [rows, ids], [f"{output}_rows"], axis=0),
        helper.make_node("Gather", [f"{rows}_scales", ids], [f"{output}_rows_scales"], axis=0),
        *_scaled(f"{output}_rows", f"{output}_scaled"),
        helper.make_node("Shape", [ids], [f"{output}_ids"]),
        helper.make_node("Concat", [f"{output}_ids", f"{output}_width"], [f"{output}_shape"], axis=0),
        helper.make_node("Reshape", [f"{output}_scaled", f"{output}_shape"], [output]),
    ]


def _scaled(values: str, output: str) -> list[NodeProto]:
    """Make the nodes that multiply values with their scales, by Cast and Mul, which runtimes fold for constants."""
    cast = helper.make_node("Cast", [values], [f"{values}_cast"], to=TensorProto.FLOAT)
    return [cast, helper.make_node("Mul", [f"{values}_cast", f"{values}_scales"], [output])]


def _store(graph: GraphProto, matrix: TensorProto, axis: int, name: str) -> None:
    """Add the blocks of a matrix and their scales to the weights of a graph."""
    values, scales = blocked(numpy_helper.to_array(matrix), axis)
    graph.initializer.append(numpy_helper.from_array(values, name))
    graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scales"))


def _is_matrix(weight: TensorProto) -> bool:
    return weight.data_type == TensorProto.FLOAT and len(weight.dims) == 2 and int(np.prod(weight.dims)) >= SMALLEST


def _is_product(node: NodeProto) -> bool:
    return node.op_type in ("MatMul", "Gemm")


def _is_lookup(node: NodeProto) -> bool:
    return node.op_type == "Gather" and not any(item.name == "axis" and item.i for item in node.attribute)


def _axis(product: NodeProto) -> int:
    """Return the axis of a weight along which a product sums."""
    return 1 if any(item.name == "transB" and item.i for item in product.attribute) else 0
