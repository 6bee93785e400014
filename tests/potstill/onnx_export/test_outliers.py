from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from potstill.config.evaluation_params import Export
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.teachers.predict import predict_logits
from potstill.onnx_export.eight_bits import quantize_int8
from potstill.onnx_export.logit_parity import onnx_logits
from potstill.onnx_export.onnx_model import export_onnx
from potstill.onnx_export.outliers import divide_outliers, outlier_divisors
from potstill.onnx_export.variants import write_variants
from tests.potstill.models.tiny import CLASSES, make

pytestmark = pytest.mark.slow


def dataset(count: int) -> TokenDataset:
    random = np.random.default_rng(0)
    lengths = random.integers(3, 30, count)
    return TokenDataset(
        random.integers(5, 50, lengths.sum()).astype(np.int32), lengths, None, np.zeros(count, dtype=np.int64), 0
    )


def with_outlier() -> Any:
    """A BERT in whose feed-forward networks a unit is 40 times as active as the others, and as little listened to."""
    torch.manual_seed(0)  # of some random weights one layer has outliers alone
    model = make("bert", num_hidden_layers=2)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.intermediate.dense.weight[5] *= 40
            layer.intermediate.dense.bias[5] = 40
            layer.output.dense.weight[:, 5] /= 40
    return model


def divided(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.name.endswith("_divided")]


def test_outliers_leave_the_other_channels_a_finer_scale(tmp_path: Path) -> None:
    model, rows = with_outlier(), dataset(50)
    export_onnx(model, tmp_path / "fp32.onnx", pair=False)
    divide_outliers(tmp_path / "fp32.onnx", tmp_path / "divided.onnx", rows.select(np.arange(20)))
    onnx.checker.check_model(onnx.load(tmp_path / "divided.onnx"))
    assert len(divided(tmp_path / "divided.onnx")) >= 2
    exact = predict_logits(model, rows)
    np.testing.assert_allclose(onnx_logits(tmp_path / "divided.onnx", rows), exact, atol=1e-5)
    errors = {}
    for name in ("fp32", "divided"):
        quantize_int8(tmp_path / f"{name}.onnx", tmp_path / f"{name}.int8.onnx")
        logits = onnx_logits(tmp_path / f"{name}.int8.onnx", rows, batch_tokens=1)
        errors[name] = float(np.abs(logits - exact).mean())
    assert errors["divided"] < 0.5 * errors["fp32"]


def test_the_int8_file_that_ships_has_them_divided_and_the_fp32_file_not(tmp_path: Path) -> None:
    model, rows = with_outlier(), dataset(20)
    files = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    write_variants(model, files, rows, predict_logits(model, rows), Export(), pair=False, clock=lambda _: nullcontext())
    assert [bool(divided(file)) for file in files] == [False, True]
    # Every product with a weight is computed in INT8.
    graph = onnx.load(files[1]).graph
    weights = {weight.name for weight in graph.initializer}
    assert not [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]


@pytest.mark.parametrize("kind", CLASSES)
def test_results_stay_the_same_in_every_class(kind: str, tmp_path: Path) -> None:
    model, rows = make(kind, num_hidden_layers=2), dataset(12)
    export_onnx(model, tmp_path / "fp32.onnx", pair=False)
    divide_outliers(tmp_path / "fp32.onnx", tmp_path / "divided.onnx", rows)
    logits = {name: onnx_logits(tmp_path / f"{name}.onnx", rows) for name in ("fp32", "divided")}
    np.testing.assert_allclose(logits["divided"], logits["fp32"], atol=1e-4)


def test_divisors() -> None:
    largest = np.ones(200, dtype=np.float32)
    assert outlier_divisors(largest) is None
    assert outlier_divisors(np.zeros(200, dtype=np.float32)) is None
    largest[[3, 7]] = 1.5, 8.0
    divisors = outlier_divisors(largest)
    assert divisors is not None
    assert divisors[[3, 7]].tolist() == [1.5, 8.0]
    assert (np.delete(divisors, [3, 7]) == 1).all()
