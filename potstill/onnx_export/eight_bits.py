"""Dynamic INT8 quantization of an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from potstill.compute.processor import saturates
from potstill.onnx_export.four_bits import embedding_lookups, lookup_products, store_embeddings_in_4_bits
from potstill.onnx_export.quiet import errors_only

Floats = npt.NDArray[np.float32]
# Signed 8 bits, symmetric around 0.
INT8_MAX = 127

# Gather is quantized too, because the embedding table is half of a small student.
OPERATORS = ["MatMul", "Gemm", "Gather"]


def quantize_int8(source: Path, target: Path, keep: Sequence[str] = (), *, embedding_bits: int = 8) -> None:
    """Quantize a model to signed 8-bit weights, one scale per output channel; activations are quantized at run time.

    Weights use 7 of their 8 bits if products of 8-bit numbers saturate on this machine.

    Args:
        source: an fp32 model.
        target: the file to write.
        keep: names of matrix products to compute in fp32, because quantizing their inputs costs accuracy; their weights
            are rounded to 8 bits all the same.
        embedding_bits: bits of the token embeddings, 8 or 4; with 4, blocks share a scale and a zero point.

    Raises:
        ModelError: with 4 bits, the width of the embeddings is no multiple of a block size.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Their inputs are factors of embeddings whose columns differ by orders of magnitude, too much for one scale.
    keep = [*keep, *lookup_products(source)]
    with errors_only(None):  # it recommends a pre-processing that has no effect here
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=saturates(),
            op_types_to_quantize=OPERATORS,
            nodes_to_exclude=[*keep, *(embedding_lookups(source) if embedding_bits == 4 else [])],
        )
    if keep:
        _store_weights_in_int8(target, keep)
    if embedding_bits == 4:
        store_embeddings_in_4_bits(target)


def _store_weights_in_int8(path: Path, names: Sequence[str]) -> None:
    """Round the weights of matrix products and store them in 8 bits, in place.

    They are dequantized by Cast and Mul instead of DequantizeLinear, because a runtime folds those two into an fp32
    weight when it loads the model.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.name in names]:
        weight = weights[node.input[1]]
        values, scales = round_to_int8(numpy_helper.to_array(weight), axis=0)
        parts = {part: f"{weight.name}_{part}" for part in ("int8", "scale", "cast", "fp32")}
        graph.initializer.append(numpy_helper.from_array(values, parts["int8"]))
        graph.initializer.append(numpy_helper.from_array(scales[0], parts["scale"]))
        cast = helper.make_node("Cast", [parts["int8"]], [parts["cast"]], parts["cast"], to=onnx.TensorProto.FLOAT)
        scale = helper.make_node("Mul", [parts["cast"], parts["scale"]], [parts["fp32"]], parts["fp32"])
        graph.node.insert(0, scale)
        graph.node.insert(0, cast)
        node.input[1] = parts["fp32"]
    used = {name for node in graph.node for name in node.input}
    for weight in [weights[name] for name in weights.keys() - used]:
        graph.initializer.remove(weight)
    onnx.save(model, path)


def round_to_int8(weights: Floats, axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round symmetrically: signed 8-bit values, and scales of size 1 along `axis`, whose weights share a scale."""
    scales = (np.abs(weights).max(axis=axis, keepdims=True) / INT8_MAX).astype(np.float32)
    scales[scales == 0] = 1.0
    return np.rint(weights / scales).astype(np.int8), scales


def narrowing_products(source: Path) -> list[str]:
    """List the matrix products whose weight has more rows than columns: the second layers of feed-forward networks.

    Their inputs are outputs of the activation function, with outliers that make one scale for a row inaccurate
    (Bondarenko et al. 2021, "Understanding and Overcoming the Challenges of Efficient Transformer Quantization").
    """
    import onnx

    graph = onnx.load(source).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and len(shape := shapes.get(node.input[1], ())) == 2 and shape[0] > shape[1]
    ]


def most_sensitive(source: Path, count: int, error: Callable[[Path], float]) -> list[str]:
    """Find the narrowing products whose quantization costs the most accuracy.

    Each candidate is kept in fp32 in turn, and the error of the resulting file is measured.

    Args:
        source: an fp32 model.
        count: number of products to find.
        error: measures the error of a quantized file.

    Returns:
        Names of the nodes that give the smallest error when they are kept in fp32.
    """
    candidates = narrowing_products(source) if count else []
    errors: dict[str, float] = {}
    with TemporaryDirectory(prefix="potstill-") as folder:
        for name in candidates:
            quantize_int8(source, Path(folder) / "without.onnx", [name])
            errors[name] = error(Path(folder) / "without.onnx")
    return sorted(candidates, key=errors.__getitem__)[:count]
