"""Token embeddings in 4 bits: half of what INT8 takes, for the table that is most of a small student.

Blocks of neighbouring weights of a token share a scale and a zero point, so that the rounding follows each token's own
range (Dettmers and Zettlemoyer 2023, "The case for 4-bit precision: k-bit Inference Scaling Laws", on small blocks).
The operator is onnxruntime's own (com.microsoft GatherBlockQuantized).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from potstill.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
# Weights that share a scale, where the width allows; the operator takes powers of 2 from 16.
BLOCKS = (32, 16)
LARGEST = 15
# The first version of ONNX files with 4-bit numbers.
IR_VERSION = 10
DOMAIN = "com.microsoft"


def embedding_lookups(path: Path) -> list[str]:
    """Names of the nodes that look up the embeddings of `input_ids`."""
    import onnx

    return [node.name for node in onnx.load(path).graph.node if _is_lookup(node)]


def lookup_products(path: Path) -> list[str]:
    """Names of the products of looked-up token embeddings: the second factor of a factorized table."""
    import onnx

    graph = onnx.load(path).graph
    found = {output for node in graph.node if _is_lookup(node) for output in node.output}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[0] in found]


def store_embeddings_in_4_bits(path: Path) -> None:
    """Replace the lookups of fp32 token embeddings of a file by such of 4-bit ones, in place.

    Raises:
        ModelError: the embeddings' width cannot be cut into blocks.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    for node in [node for node in graph.node if _is_lookup(node)]:
        table = next(weight for weight in graph.initializer if weight.name == node.input[0])
        weights = numpy_helper.to_array(table)
        block = next((size for size in BLOCKS if weights.shape[1] % size == 0), None)
        if block is None:
            raise ModelError(
                f"the token embeddings are {weights.shape[1]} wide, which {BLOCKS[-1]} does not divide; set "
                "export.embedding_bits to 8"
            )
        _replace(graph, table, quantized(weights, block))
        names = [f"{table.name}_{part}" for part in ("int4", "scales", "zeros")]
        lookup = helper.make_node(
            "GatherBlockQuantized", [names[0], node.input[1], *names[1:]], list(node.output), node.name,
            domain=DOMAIN, gather_axis=0, quantize_axis=1, block_size=block,
        )  # fmt: skip
        node.CopyFrom(lookup)
    if DOMAIN not in {item.domain for item in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = max(model.ir_version, IR_VERSION)
    onnx.save(model, path)


def quantized(weights: Floats, block: int) -> tuple[Bytes, Floats, Bytes]:
    """4-bit values [tokens, width] (one a byte), and scales and zero points [tokens, width / block].

    A weight is (value - zero) * scale. The range of a block always has 0 in it.
    """
    blocks = weights.reshape(len(weights), -1, block)
    low, high = np.minimum(blocks.min(axis=2), 0), np.maximum(blocks.max(axis=2), 0)
    scales = ((high - low) / LARGEST).astype(np.float32)
    scales[scales == 0] = 1.0
    zeros = np.rint(-low / scales)
    values = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, LARGEST)
    return values.astype(np.uint8).reshape(weights.shape), scales, zeros.astype(np.uint8)


def _is_lookup(node: NodeProto) -> bool:
    return bool(node.op_type == "Gather" and node.input[1] == "input_ids")


def _replace(graph: GraphProto, table: TensorProto, parts: tuple[Bytes, Floats, Bytes]) -> None:
    """Put the three parts of a table in its place."""
    from onnx import numpy_helper

    values, scales, zeros = parts
    graph.initializer.extend(
        [
            _packed(f"{table.name}_int4", values),
            numpy_helper.from_array(scales, f"{table.name}_scales"),
            _packed(f"{table.name}_zeros", zeros),
        ]
    )
    graph.initializer.remove(table)


def _packed(name: str, values: Bytes) -> TensorProto:
    """Two 4-bit values a byte, the first in the lower half."""
    from onnx import TensorProto, helper

    flat = values.reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, dtype=np.uint8))
    data = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8).tobytes()
    return helper.make_tensor(name, TensorProto.UINT4, values.shape, data, raw=True)
