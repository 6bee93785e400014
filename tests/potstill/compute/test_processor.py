"""Tests of `processor`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.compute import processor
from potstill.onnx_export.eight_bits import quantize_int8


@pytest.fixture(autouse=True)
def clear_cache() -> None:
    processor.saturates.cache_clear()


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu avx2 fma", True),
        ("x86_64", "fpu avx2 avx512f avx512_vnni", False),
        ("AMD64", "avx2 avx_vnni", False),
        ("x86_64", None, True),
        ("aarch64", None, False),
        ("arm64", None, False),
    ],
)
def test_saturates(
    machine: str, flags: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    if flags is not None:
        info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n", encoding="utf-8")
    monkeypatch.setattr(processor, "CPU_INFO", info)
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    assert processor.saturates() is expected


def test_quantized_sums_do_not_saturate_on_this_machine(tmp_path: Path) -> None:
    """With inputs and weights at the end of their range, a product that saturates loses half of each sum."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    size = 64
    weight = numpy_helper.from_array(np.ones((size, size), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")],
        "sums",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, size])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "fp32.onnx")
    quantize_int8(tmp_path / "fp32.onnx", tmp_path / "int8.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    (sums,) = session.run(None, {"x": np.ones((1, size), np.float32)})
    np.testing.assert_allclose(sums, size, rtol=0.02)


def test_the_processor_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    assert processor.processor_name()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Chip @ 2.10GHz\n", encoding="utf-8")
    assert processor.processor_name() == "A Chip @ 2.10GHz"
