from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from potstill.data.tokens.batches import TokenDataset
from potstill.models.loading import load_classifier
from potstill.onnx_export.block_weights import BLOCK, blocked, store_in_blocks
from potstill.onnx_export.logit_parity import onnx_logits
from potstill.onnx_export.onnx_model import export_onnx


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rows", [64, 50])
def test_weights_are_rounded_to_the_scale_of_their_block(axis: int, rows: int) -> None:
    matrix = np.random.default_rng(1).normal(size=(rows, rows)).astype(np.float32)
    matrix[0, 0] = 100.0  # costs the accuracy of its own block only
    values, scales = blocked(matrix, axis)
    error = np.abs((values * scales).reshape(matrix.shape) - matrix)
    assert values.dtype == np.int8
    assert (error.reshape(values.shape) <= scales / 2 + 1e-6).all()
    blocks = rows // BLOCK if rows % BLOCK == 0 else 1
    assert scales.size == rows * blocks
    assert error[rows // 2 :, rows // 2 :].max() < 0.05


def test_a_block_of_zeros_stays_zero() -> None:
    values, scales = blocked(np.zeros((32, 4), np.float32), 0)
    assert not values.any()
    assert np.isfinite(scales).all()


@pytest.fixture(scope="module")
def fp32(trained_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blocks") / "fp32.onnx"
    export_onnx(load_classifier(trained_teacher), path, pair=False)
    return path


@pytest.mark.slow
def test_answers_hardly_change_and_depend_on_no_batch(fp32: Path, tmp_path: Path) -> None:
    model = onnx.load(fp32)
    store_in_blocks(model)
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "blocks.onnx")
    random = np.random.default_rng(0)
    lengths = random.integers(3, 30, 60)
    ids = random.integers(5, 60, lengths.sum()).astype(np.int32)
    rows = TokenDataset(ids, lengths, None, random.integers(0, 2, 60), 0)
    exact, stored = onnx_logits(fp32, rows), onnx_logits(tmp_path / "blocks.onnx", rows)
    assert 0 < np.abs(exact - stored).max() < 0.05 * exact.std()
    assert np.abs(onnx_logits(tmp_path / "blocks.onnx", rows, batch_tokens=1) - stored).max() < 1e-4
    assert (tmp_path / "blocks.onnx").stat().st_size < 0.6 * fp32.stat().st_size


@pytest.mark.slow
def test_the_file_is_reproducible_and_needs_standard_operators_only(fp32: Path) -> None:
    models = [onnx.load(fp32) for _ in range(2)]
    for model in models:
        store_in_blocks(model)
    assert models[0].SerializeToString() == models[1].SerializeToString()
    assert {node.domain for node in models[0].graph.node} == {""}
    large = [weight for weight in models[0].graph.initializer if np.prod(weight.dims) >= 1024]
    assert {weight.data_type for weight in large} == {onnx.TensorProto.INT8}
