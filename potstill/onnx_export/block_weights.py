"""Weights in blocks of 8 bits, with which products are computed in fp32.

Dynamic INT8 (`eight_bits`) also rounds the inputs of every product, to one scale a call. Here only the weights are
rounded, and those of a block share a scale. So hardly an answer changes, and none depends on the other texts of its
batch. The file is an eighth larger. All operators are of the ONNX standard, which every runtime has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from potstill.onnx_export.eight_bits import INT8_MAX

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

Floats = npt.NDArray[np.float32]
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
    stored: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in matrices:
            nodes += _product(graph, node, matrices[node.input[1]], stored)
        elif node.op_type == "Gather" and node.input[0] in matrices and _axis(node) == 0:
            nodes += _lookup(graph, node, matrices[node.input[0]], stored)
        else:
            nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in graph.node for name in node.input}
    for name in matrices.keys() - used:
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
    blocks = matrix.reshape(shape)
    scales = (np.abs(blocks).max(axis=axis + 1, keepdims=True) / INT8_MAX).astype(np.float32)
    scales[scales == 0] = 1.0
    return np.rint(blocks / scales).astype(np.int8), scales


def _product(graph: GraphProto, node: NodeProto, weight: TensorProto, stored: set[str]) -> Iterator[NodeProto]:
    """Yield the nodes that restore a weight in fp32, where they are not there yet, and the product with it."""
    from onnx import helper, numpy_helper

    name = weight.name
    if name not in stored:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        _store(graph, weight, axis=1 if transposed else 0, stored=stored)
        graph.initializer.append(numpy_helper.from_array(np.array(weight.dims, np.int64), f"{name}_shape"))
        yield from _multiplied(f"{name}_values", f"{name}_scales", f"{name}_blocks")
        yield helper.make_node("Reshape", [f"{name}_blocks", f"{name}_shape"], [f"{name}_fp32"])
    node.input[1] = f"{name}_fp32"
    yield node


def _lookup(graph: GraphProto, node: NodeProto, table: TensorProto, stored: set[str]) -> Iterator[NodeProto]:
    """Yield the nodes that look up values and scales, and multiply them."""
    from onnx import helper, numpy_helper

    name, ids, output = table.name, node.input[1], node.output[0]
    if name not in stored:
        _store(graph, table, axis=1, stored=stored)
    graph.initializer.append(numpy_helper.from_array(np.array([table.dims[1]], np.int64), f"{output}_width"))
    for part in ("values", "scales"):
        yield helper.make_node("Gather", [f"{name}_{part}", ids], [f"{output}_{part}"], axis=0)
    yield from _multiplied(f"{output}_values", f"{output}_scales", f"{output}_blocks")
    yield helper.make_node("Shape", [ids], [f"{output}_ids"])
    yield helper.make_node("Concat", [f"{output}_ids", f"{output}_width"], [f"{output}_shape"], axis=0)
    yield helper.make_node("Reshape", [f"{output}_blocks", f"{output}_shape"], [output])


def _multiplied(values: str, scales: str, output: str) -> Iterator[NodeProto]:
    """Yield the nodes that multiply values with their scales. Every runtime folds a Cast and a Mul of constants."""
    from onnx import TensorProto, helper

    yield helper.make_node("Cast", [values], [f"{output}_cast"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{output}_cast", scales], [output])


def _store(graph: GraphProto, weight: TensorProto, *, axis: int, stored: set[str]) -> None:
    """Add a matrix in blocks to the weights of a graph."""
    from onnx import numpy_helper

    values, scales = blocked(numpy_helper.to_array(weight), axis)
    graph.initializer.append(numpy_helper.from_array(values, f"{weight.name}_values"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{weight.name}_scales"))
    stored.add(weight.name)


def _is_matrix(weight: TensorProto) -> bool:
    from onnx import TensorProto

    return weight.data_type == TensorProto.FLOAT and len(weight.dims) == 2 and int(np.prod(weight.dims)) >= SMALLEST


def _axis(node: NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)
