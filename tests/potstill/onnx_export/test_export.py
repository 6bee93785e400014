from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import BertConfig, BertForSequenceClassification

from potstill.compute.processor import saturates
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ModelError, ParityError
from potstill.models.loading import load_classifier
from potstill.models.students.factorized import factorize
from potstill.models.students.student import student_from_layers
from potstill.onnx_export.eight_bits import OPERATORS, most_sensitive, narrowing_products, quantize_int8
from potstill.onnx_export.four_bits import embedding_lookups, lookup_products, quantized
from potstill.onnx_export.logit_parity import compare, onnx_logits
from potstill.onnx_export.onnx_model import export_onnx, gives_embedding

pytestmark = pytest.mark.slow


def dataset(count: int, *, pair: bool) -> TokenDataset:
    random = np.random.default_rng(0)
    lengths = random.integers(3, 30, count)
    flat = random.integers(5, 60, lengths.sum()).astype(np.int32)
    types = (np.arange(lengths.sum()) % 2).astype(np.int8) if pair else None
    return TokenDataset(flat, lengths, types, random.integers(0, 2, count), 0)


@pytest.fixture(scope="module")
def student(tiny_base: Path) -> torch.nn.Module:
    torch.manual_seed(2)
    return student_from_layers(load_classifier(tiny_base, ["no", "yes"]), [0, 3])


@pytest.fixture(scope="module")
def fp32(student: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student's file, exported once: that takes seconds."""
    path = tmp_path_factory.mktemp("exported") / "fp32.onnx"
    export_onnx(student, path, pair=False)
    return path


@pytest.mark.parametrize("pair", [False, True])
def test_the_graph_equals_the_model_for_any_batch_and_length(
    tmp_path: Path, student: torch.nn.Module, pair: bool
) -> None:
    path = tmp_path / "student.onnx"
    export_onnx(student, path, pair=pair)
    rows = dataset(50, pair=pair)
    assert (
        compare(predict_logits(student, rows), onnx_logits(path, rows, batch_tokens=64), rows.labels).max_difference
        < 1e-5
    )
    session = onnxruntime.InferenceSession(str(path))
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if pair else [])
    assert [item.name for item in session.get_inputs()] == names
    assert [item.name for item in session.get_outputs()] == ["logits", "sentence_embedding"]
    assert gives_embedding(path)


def test_the_file_has_no_paths_of_the_machine_and_is_reproducible(
    tmp_path: Path, student: torch.nn.Module, fp32: Path
) -> None:
    export_onnx(student, tmp_path / "again.onnx", pair=False)
    quantize_int8(fp32, tmp_path / "int8.onnx")
    quantize_int8(tmp_path / "again.onnx", tmp_path / "again8.onnx")
    assert fp32.read_bytes() == (tmp_path / "again.onnx").read_bytes()
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "again8.onnx").read_bytes()
    assert b"site-packages" not in fp32.read_bytes()


def test_int8_is_smaller_and_close(tmp_path: Path, student: torch.nn.Module, fp32: Path) -> None:
    quantize_int8(fp32, tmp_path / "int8.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert {"MatMulInteger", "DynamicQuantizeLinear"} & operators
    rows = dataset(50, pair=False)
    parity = compare(predict_logits(student, rows), onnx_logits(tmp_path / "int8.onnx", rows), rows.labels)
    assert 0 < parity.max_difference < 0.1
    assert parity.agreement > 0.8
    assert (tmp_path / "int8.onnx").stat().st_size < 0.7 * fp32.stat().st_size


def test_the_most_sensitive_products_stay_in_fp32(tmp_path: Path, fp32: Path) -> None:
    candidates = narrowing_products(fp32)
    assert len(candidates) == 2  # one feed-forward output a layer
    asked: list[set[str]] = []

    def error(path: Path) -> float:
        asked.append({node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"})
        return {0: 0.5, 1: 0.2}[len(asked) - 1]

    assert most_sensitive(fp32, 1, error) == candidates[1:]
    assert [set(candidates) & left for left in asked] == [{candidates[0]}, {candidates[1]}]
    assert most_sensitive(fp32, 0, error) == []
    quantize_int8(fp32, tmp_path / "int8.onnx", candidates[1:])
    left = {node.name for node in onnx.load(tmp_path / "int8.onnx").graph.node if node.op_type == "MatMul"}
    assert candidates[1] in left
    assert candidates[0] not in left


def test_weights_of_fp32_products_are_stored_in_8_bits(tmp_path: Path, fp32: Path) -> None:
    """The file is as small as with every product in INT8, and the runtime computes with rounded weights."""
    keep = narrowing_products(fp32)
    quantize_int8(fp32, tmp_path / "all.onnx")
    quantize_int8(fp32, tmp_path / "kept.onnx", keep)
    assert (tmp_path / "kept.onnx").stat().st_size < 1.1 * (tmp_path / "all.onnx").stat().st_size
    onnx.checker.check_model(onnx.load(tmp_path / "kept.onnx"))
    before, after = (onnx.load(path).graph for path in (fp32, tmp_path / "kept.onnx"))
    exact = {weight.name: onnx.numpy_helper.to_array(weight) for weight in before.initializer}
    stored = {weight.name: onnx.numpy_helper.to_array(weight) for weight in after.initializer}
    for node in (node for node in before.node if node.name in keep):
        name = node.input[1]
        assert name not in stored
        assert stored[f"{name}_int8"].dtype == np.int8
        difference = np.abs(stored[f"{name}_int8"] * stored[f"{name}_scale"] - exact[name])
        assert (difference <= 0.5001 * np.abs(exact[name]).max(axis=0) / 127).all()
    rows = dataset(50, pair=False)
    exact_logits = onnx_logits(fp32, rows, batch_tokens=1)
    errors = {
        name: float(np.abs(onnx_logits(tmp_path / f"{name}.onnx", rows, batch_tokens=1) - exact_logits).mean())
        for name in ("all", "kept")
    }
    assert 0 < errors["kept"] < 2 * errors["all"]


def test_token_embeddings_in_4_bits(tmp_path: Path, student: torch.nn.Module, fp32: Path) -> None:
    for bits in (4, 8):
        quantize_int8(fp32, tmp_path / f"{bits}.onnx", embedding_bits=bits)
    table = student.get_input_embeddings().weight.detach().numpy()
    sizes = {bits: (tmp_path / f"{bits}.onnx").stat().st_size for bits in (4, 8)}
    # A scale and half a byte of zero point for every 32 weights.
    assert sizes[4] - sizes[8] == pytest.approx(table.size * (1 / 2 + 4.5 / 32 - 1), abs=600)
    rows = dataset(50, pair=False)
    wanted = predict_logits(student, rows)
    errors = {
        bits: np.abs(onnx_logits(tmp_path / f"{bits}.onnx", rows, batch_tokens=1) - wanted).mean() for bits in sizes
    }
    assert 0 < errors[8] < errors[4] < 0.1
    values, scales, zeros = quantized(table, 32)
    rounded = (values.reshape(len(table), -1, 32) - zeros[..., None].astype(np.float32)) * scales[..., None]
    # What the runtime looks up, to the bit: the model with rounded embeddings, all else quantized alike.
    with torch.no_grad():
        ours = copy.deepcopy(student)
        ours.get_input_embeddings().weight.copy_(torch.from_numpy(rounded.reshape(table.shape)))
    export_onnx(ours, tmp_path / "rounded.onnx", pair=False)
    keep = embedding_lookups(tmp_path / "rounded.onnx")
    assert len(keep) == 1
    quantize_dynamic(
        tmp_path / "rounded.onnx", tmp_path / "reference.onnx", weight_type=QuantType.QInt8, per_channel=True,
        reduce_range=saturates(), op_types_to_quantize=OPERATORS, nodes_to_exclude=keep,
    )  # fmt: skip
    found, reference = (onnx_logits(tmp_path / f"{name}.onnx", rows, batch_tokens=1) for name in ("4", "reference"))
    assert np.array_equal(found, reference)


@pytest.mark.parametrize("bits", [4, 8])
def test_factorized_embeddings(tmp_path: Path, student: torch.nn.Module, bits: int) -> None:
    """The second factor is computed in fp32, because one scale does not suit its inputs."""
    ours = copy.deepcopy(student)
    factorize(ours, 16)  # type: ignore[arg-type]
    export_onnx(ours, tmp_path / "fp32.onnx", pair=False)  # type: ignore[arg-type]
    rows = dataset(50, pair=False)
    wanted = predict_logits(ours, rows)  # type: ignore[arg-type]
    assert np.abs(onnx_logits(tmp_path / "fp32.onnx", rows) - wanted).max() < 1e-5
    quantize_int8(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", embedding_bits=bits)
    assert np.abs(onnx_logits(tmp_path / "int8.onnx", rows, batch_tokens=1) - wanted).mean() < 0.1
    (product,) = lookup_products(tmp_path / "fp32.onnx")
    assert product in {node.name for node in onnx.load(tmp_path / "int8.onnx").graph.node if node.op_type == "MatMul"}
    assert not lookup_products(tmp_path / "int8.onnx") or bits == 8


@pytest.mark.parametrize("block", [16, 32])
def test_4_bits_round_to_the_nearest_step_and_keep_zero(block: int) -> None:
    weights = np.random.default_rng(3).normal(0.5, 1, (7, 64)).astype(np.float32)
    weights[2] = 0
    weights[3] = np.abs(weights[3]) + 1
    values, scales, zeros = quantized(weights, block)
    assert values.max() <= 15
    assert scales.shape == zeros.shape == (7, 64 // block)
    rounded = (values.reshape(7, -1, block) - zeros[..., None].astype(np.float32)) * scales[..., None]
    assert (np.abs(rounded - weights.reshape(7, -1, block)) <= 1.001 * scales[..., None]).all()
    assert np.abs(rounded - weights.reshape(7, -1, block)).mean() < 0.3 * scales.mean()
    assert (rounded[2] == 0).all()


def test_4_bits_need_a_width_of_whole_blocks(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    export_onnx(BertForSequenceClassification(config), tmp_path / "fp32.onnx", pair=False)
    with pytest.raises(ModelError, match=r"are 24 wide, which 16 does not divide; set export\.embedding_bits to 8"):
        quantize_int8(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", embedding_bits=4)


def test_nan_logits_are_refused() -> None:
    good = np.zeros((2, 2), dtype=np.float32)
    with pytest.raises(ParityError, match="NaN or infinite"):
        compare(good, np.full((2, 2), np.nan, dtype=np.float32), np.array([0, 1]))


def test_compare_counts_agreement_and_accuracy() -> None:
    ours = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=np.float32)
    theirs = np.array([[1, 0], [0, 2], [0, 1], [0, 1]], dtype=np.float32)
    parity = compare(ours, theirs, np.array([0, 0, 1, 0]))
    assert (parity.max_difference, parity.agreement, parity.drop.difference) == (2.0, 0.75, 0.25)
