from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, BertConfig, ElectraConfig, PreTrainedConfig

from potstill.config.params import Params
from potstill.config.tokenize_params import BudgetedTokenize, Vocabulary
from potstill.errors import ParamsError
from potstill.onnx_export.eight_bits import quantize_int8
from potstill.onnx_export.onnx_model import export_onnx
from potstill.onnx_export.size import TOLERANCE, check_file_size, fitting_vocabulary, student_shape

BERT = BertConfig(vocab_size=8000, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
ELECTRA = ElectraConfig(
    vocab_size=8000, embedding_size=64, hidden_size=128, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=512,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("config", [BERT, ELECTRA], ids=["bert", "electra"])
def test_the_estimate_matches_the_exported_file(
    config: PreTrainedConfig, default_params: Params, tmp_path: Path
) -> None:
    config.num_labels = 5
    model = AutoModelForSequenceClassification.from_config(config)
    export_onnx(model, tmp_path / "fp32.onnx", pair=False)
    distill = default_params.distill.model_copy(update={"layers": list(range(config.num_hidden_layers))})
    shape = student_shape(config.to_dict(), distill, labels=5)
    assert shape is not None
    for bits in (8, 4):
        quantize_int8(tmp_path / "fp32.onnx", tmp_path / f"{bits}.onnx", embedding_bits=bits)
        assert shape.file_bytes(bits) == pytest.approx((tmp_path / f"{bits}.onnx").stat().st_size, rel=TOLERANCE)


def test_the_default_student_has_its_measured_size(default_params: Params) -> None:
    """17,493,465 bytes, and 13,281,429 with embeddings in 4 bits."""
    shape = student_shape(_minilm(30_522), default_params.distill, labels=2)
    assert shape is not None
    assert shape.file_bytes(8) == pytest.approx(17_493_465, rel=0.01)
    assert shape.file_bytes(4) == pytest.approx(13_281_429, rel=0.01)
    check_file_size(default_params, shape)


def test_a_large_vocabulary_is_refused_with_advice(default_params: Params) -> None:
    shape = student_shape(_minilm(250_037), default_params.distill, labels=2)
    assert shape is not None
    with pytest.raises(ParamsError) as refused:
        check_file_size(default_params, shape)
    message = str(refused.value)
    assert "about 101.8 MB" in message
    assert "96.0 MB of it are 250,037 token embeddings of 384" in message
    for key in ("tokenize.vocabulary", "export.embedding_bits", "distill.layers", "gate.max_file_mb"):
        assert key in message
    tokens = int(message.split("max_tokens: ")[1].split("}")[0])
    trimmed = student_shape(_minilm(250_037), default_params.distill, labels=2, vocabulary=tokens)
    assert trimmed is not None
    check_file_size(default_params, trimmed)


def test_without_a_limit_or_with_an_unknown_class_nothing_is_refused(default_params: Params) -> None:
    shape = student_shape(_minilm(250_037), default_params.distill, labels=2)
    assert shape is not None
    gate = default_params.gate.model_copy(update={"max_file_mb": None})
    check_file_size(default_params.model_copy(update={"gate": gate}), shape)
    assert student_shape(_minilm(100) | {"model_type": "gpt2"}, default_params.distill, labels=2) is None


def test_a_factorized_table_a_narrower_and_a_static_student_are_smaller(default_params: Params) -> None:
    distill = default_params.distill
    whole = student_shape(_minilm(30_522), distill, labels=2)
    ranked = student_shape(_minilm(30_522), distill, labels=2, rank=152)
    small = {"kind": "config", "hidden_size": 128, "heads": 2, "intermediate_size": 256}
    narrow = student_shape(
        _minilm(30_522), type(distill).model_validate(distill.model_dump() | {"student": small}), labels=2
    )
    static = {"kind": "static", "dimensions": 64}
    vectors = student_shape(
        _minilm(30_522), type(distill).model_validate(distill.model_dump() | {"student": static}), labels=2
    )
    sizes = [shape.file_bytes() for shape in (whole, ranked, narrow, vectors) if shape is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 4


def test_a_fitting_vocabulary_is_as_large_as_the_file_allows(
    default_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = _budgeted(default_params, layers=[0, 2, 4, 6, 8, 10]).budget
    tokens = fitting_vocabulary(_minilm(250_037), budget, labels=2)
    assert tokens is not None
    assert "all 250,037 tokens the student's INT8 file would have about 107.3 MB" in capsys.readouterr().out
    sizes = []
    for count in (tokens, tokens + 1000):
        shape = student_shape(_minilm(250_037), budget, labels=2, vocabulary=count)
        assert shape is not None
        sizes.append(shape.file_bytes() / 1e6 * (1 + TOLERANCE))
    assert sizes[0] <= 20 < sizes[1]
    four_bits = fitting_vocabulary(_minilm(250_037), budget.model_copy(update={"embedding_bits": 4}), labels=2)
    assert four_bits is not None
    assert four_bits > 1.5 * tokens


def test_a_whole_vocabulary_that_fits_stays(default_params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    assert fitting_vocabulary(_minilm(30_522), _budgeted(default_params).budget, labels=2) is None
    assert "the whole vocabulary stays: with all 30,522 tokens" in capsys.readouterr().out


def test_a_file_that_no_vocabulary_makes_small_enough_is_refused(default_params: Params) -> None:
    budget = _budgeted(default_params, max_file_mb=6.0).budget
    with pytest.raises(ParamsError, match=r"even with 4,000 tokens .* gate\.max_file_mb = 6; .*name fewer distill\.l"):
        fitting_vocabulary(_minilm(250_037), budget, labels=2)


def _budgeted(params: Params, *, layers: list[int] | None = None, max_file_mb: float = 20.0) -> BudgetedTokenize:
    """The section of the stage tokenize, with a vocabulary that has to fit the file."""
    tokenize = params.tokenize.model_copy(update={"vocabulary": Vocabulary(max_tokens="auto")})
    distill = params.distill.model_copy(update={"layers": layers or params.distill.layers})
    gate = params.gate.model_copy(update={"max_file_mb": max_file_mb})
    section = params.model_copy(update={"tokenize": tokenize, "distill": distill, "gate": gate}).section("tokenize")
    assert isinstance(section, BudgetedTokenize)
    return section


def _minilm(vocabulary: int) -> dict[str, Any]:
    return BertConfig(
        vocab_size=vocabulary, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ).to_dict()
