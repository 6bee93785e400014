"""4-bit quantization of token embeddings, which are most of a small student's size.

Blocks of neighbouring weights of a token share a scale and a zero point, so that rounding follows the range of each
token (Dettmers and Zettlemoyer 2023, "The case for 4-bit precision: k-bit Inference Scaling Laws", on small blocks).
The operator is onnxruntime's com.microsoft GatherBlockQuantized.
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
# Sizes of a block, the preferred one first; the operator supports powers of 2 from 16.
BLOCKS = (32, 16)
# The largest 4-bit value.
LARGEST = 15
# The first version of the ONNX format with 4-bit numbers.
IR_VERSION = 10
DOMAIN = "com.microsoft"


def embedding_lookups(path: Path) -> list[str]:
    """List the nodes that look up the embeddings of `input_ids`."""
    import onnx

    return [node.name for node in onnx.load(path).graph.node if _is_lookup(node)]


def lookup_products(path: Path) -> list[str]:
    """List the nodes that multiply token embeddings with the second factor of a factorized table."""
    import onnx

    graph = onnx.load(path).graph
    embeddings = {output for node in graph.node if _is_lookup(node) for output in node.output}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[0] in embeddings]


def store_embeddings_in_4_bits(path: Path) -> None:
    """Quantize the token embeddings of an fp32 ONNX file to 4 bits, in place.

    Raises:
        ModelError: the width of the embeddings is no multiple of a block size.
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
    """Quantize weights to 4 bits by blocks: a weight is (value - zero point) * scale.

    The range of a block always includes 0.

    Args:
        weights: [tokens, width].
        block: number of weights of a block, which divides the width.

    Returns:
        [tokens, width] values, one a byte; [tokens, width / block] scales; [tokens, width / block] zero points.
    """
    blocks = weights.reshape(len(weights), -1, block)
    low = np.minimum(blocks.min(axis=2), 0)
    high = np.maximum(blocks.max(axis=2), 0)
    scales = ((high - low) / LARGEST).astype(np.float32)
    scales[scales == 0] = 1.0
    zeros = np.rint(-low / scales)
    values = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, LARGEST)
    return values.astype(np.uint8).reshape(weights.shape), scales, zeros.astype(np.uint8)


def _is_lookup(node: NodeProto) -> bool:
    return bool(node.op_type == "Gather" and node.input[1] == "input_ids")


def _replace(graph: GraphProto, table: TensorProto, parts: tuple[Bytes, Floats, Bytes]) -> None:
    """Replace a table with its values, scales and zero points."""
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
    """Pack two 4-bit values into a byte, the first in the lower half."""
    from onnx import TensorProto, helper

    flat = values.reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, dtype=np.uint8))
    data = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8).tobytes()
    return helper.make_tensor(name, TensorProto.UINT4, values.shape, data, raw=True)
