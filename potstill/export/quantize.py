"""Dynamic INT8 quantization of an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from potstill.export.quiet import errors_only

# The embedding table is half of a small student: Gather is quantized as well as the matrix products.
OPERATORS = ["MatMul", "Gemm", "Gather"]


def quantize_int8(source: Path, target: Path, keep: Sequence[str] = ()) -> None:
    """Write `source` with signed 8-bit weights, one scale per output channel; activations are quantized at run time.

    Args:
        source: an fp32 model.
        target: the file to write.
        keep: names of nodes that stay in fp32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with errors_only(None):  # it suggests a pre-processing that changes nothing here
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=OPERATORS,
            nodes_to_exclude=list(keep),
        )


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
