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

# The embedding table is half of a small student: Gather is quantized as well as the matrix products.
OPERATORS = ["MatMul", "Gemm", "Gather"]


def quantize_int8(source: Path, target: Path, keep: Sequence[str] = (), *, embedding_bits: int = 8) -> None:
    """Write `source` with signed 8-bit weights, one scale per output channel; activations are quantized at run time.

    Weights take 7 of their 8 bits where this machine's products of 8-bit numbers would saturate.

    Args:
        source: an fp32 model.
        target: the file to write.
        keep: names of matrix products that are computed in fp32, with weights rounded to 8 bits: what costs accuracy
            are their inputs.
        embedding_bits: of the token embeddings: 8, or 4 with a scale and a zero point for every few of them.

    Raises:
        ModelError: 4 bits for embeddings of a width that cannot be cut into blocks.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # What comes in there are embeddings whose columns differ in size by orders: one scale for all would lose most.
    keep = [*keep, *lookup_products(source)]
    with errors_only(None):  # it suggests a pre-processing that changes nothing here
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
    """Round the weights of these products and store them in 8 bits, in place.

    Cast and Mul, not DequantizeLinear: a runtime folds those two into an fp32 weight once, when it loads the model.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.name in names]:
        weight = weights[node.input[1]]
        rounded, scales = _rounded(numpy_helper.to_array(weight))
        parts = {part: f"{weight.name}_{part}" for part in ("int8", "scale", "cast", "fp32")}
        graph.initializer.append(numpy_helper.from_array(rounded, parts["int8"]))
        graph.initializer.append(numpy_helper.from_array(scales, parts["scale"]))
        cast = helper.make_node("Cast", [parts["int8"]], [parts["cast"]], parts["cast"], to=onnx.TensorProto.FLOAT)
        scale = helper.make_node("Mul", [parts["cast"], parts["scale"]], [parts["fp32"]], parts["fp32"])
        graph.node.insert(0, scale)
        graph.node.insert(0, cast)
        node.input[1] = parts["fp32"]
    used = {name for node in graph.node for name in node.input}
    for weight in [weights[name] for name in weights.keys() - used]:
        graph.initializer.remove(weight)
    onnx.save(model, path)


def _rounded(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """[rows, columns] signed 8-bit values and [columns] scales: symmetric, one scale per output channel."""
    scales = (np.abs(weight).max(axis=0) / INT8_MAX).astype(np.float32)
    scales[scales == 0] = 1.0
    return np.rint(weight / scales).astype(np.int8), scales


def narrowing_products(source: Path) -> list[str]:
    """Names of the matrix products whose weight has more rows than columns: the outputs of feed-forward layers.

    Their inputs come out of the activation function with outliers that one scale for a whole row serves badly
    (Bondarenko et al. 2021, "Understanding and Overcoming the Challenges of Efficient Transformer Quantization").
    """
    import onnx

    graph = onnx.load(source).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul"
        and len(shape := shapes.get(node.input[1], ())) == len(("rows", "columns"))
        and shape[0] > shape[1]
    ]


def most_sensitive(source: Path, count: int, error: Callable[[Path], float]) -> list[str]:
    """The narrowing products that cost most when they are quantized.

    Args:
        source: an fp32 model.
        count: how many to name.
        error: how far a quantized file's answers are from the original's.

    Returns:
        Names of nodes; each is one without whose quantization the error was smallest.
    """
    candidates = narrowing_products(source) if count else []
    errors: dict[str, float] = {}
    with TemporaryDirectory(prefix="potstill-") as folder:
        for name in candidates:
            quantize_int8(source, Path(folder) / "without.onnx", [name])
            errors[name] = error(Path(folder) / "without.onnx")
    return sorted(candidates, key=errors.__getitem__)[:count]
