"""Dynamic INT8 quantization of an ONNX model."""

from __future__ import annotations

from pathlib import Path

from potstill.export.quiet import errors_only

# The embedding table is half of a small student: Gather is quantized as well as the matrix products.
OPERATORS = ["MatMul", "Gemm", "Gather"]


def quantize_int8(source: Path, target: Path) -> None:
    """Write `source` with signed 8-bit weights, one scale per output channel; activations are quantized at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with errors_only(None):  # it suggests a pre-processing that changes nothing here
        quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=OPERATORS)
