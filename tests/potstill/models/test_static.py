from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from model2vec import StaticModel
from tokenizers import Tokenizer

from potstill.data.tokens.tokenization import load_tokenizer
from potstill.kinds.task_names import TaskKind
from potstill.models.loading import load_classifier
from potstill.models.students.static import (
    StaticForSequenceClassification,
    save_static,
    silent_tokens,
    static_from_teacher,
    token_vectors,
    zipf_weights,
)
from potstill.onnx_export.onnx_model import export_onnx
from potstill.pretrained.heads import task_of

TEXTS = ["a superb movie", "the dull and stale plot with qqqq", "superb superb superb", ""]


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Tokenizer:
    return load_tokenizer(tiny_base, 32)


@pytest.fixture(scope="module")
def student(tiny_base: Path, tokenizer: Tokenizer) -> StaticForSequenceClassification:
    torch.manual_seed(0)
    return static_from_teacher(load_classifier(tiny_base, ["no", "yes"]), tokenizer, 8)


def _inputs(tokenizer: Tokenizer, texts: list[str]) -> dict[str, torch.Tensor]:
    encodings = tokenizer.encode_batch(texts)
    longest = max(len(one) for one in encodings)
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(encodings):
        ids[row, : len(one)] = torch.tensor(one.ids)
        mask[row, : len(one)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def test_vectors_are_those_of_each_token_alone(tiny_base: Path, tokenizer: Tokenizer) -> None:
    teacher = load_classifier(tiny_base, ["no", "yes"])
    vectors = token_vectors(teacher, tokenizer)
    assert vectors.shape == (tokenizer.get_vocab_size(), 32)
    for token in (7, 100):
        with torch.no_grad():
            alone = teacher.base_model(input_ids=torch.tensor([[2, token, 3]])).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(vectors[token], alone, atol=1e-5)


def test_initial_vectors_are_principal_components_weighted_by_zipf(
    tiny_base: Path, tokenizer: Tokenizer, student: StaticForSequenceClassification
) -> None:
    vectors = token_vectors(load_classifier(tiny_base, ["no", "yes"]), tokenizer).astype(np.float64)
    weights = zipf_weights(len(vectors))
    assert (np.diff(weights) > 0).all()  # the rarer, the heavier
    assert weights[-1] < 1
    found = student.embeddings.weight.detach().numpy() / weights[:, None]
    silent = silent_tokens(tokenizer)
    assert silent == [0, 1, 2, 3, 4]
    assert (found[silent] == 0).all()
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    expected = left[:, :8] * sizes[:8]
    rest = np.setdiff1d(np.arange(len(vectors)), silent)
    np.testing.assert_allclose(np.abs(found[rest]), np.abs(expected[rest]), atol=1e-4)


@pytest.mark.slow
def test_logits_equal_those_of_model2vec_and_of_the_onnx_model(
    student: StaticForSequenceClassification, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import onnxruntime

    inputs = _inputs(tokenizer, TEXTS)
    with torch.no_grad():
        ours = student(**inputs).logits
    save_static(student, tokenizer, tmp_path / "model2vec")
    theirs = StaticModel.from_pretrained(tmp_path / "model2vec").encode(TEXTS)
    with torch.no_grad():
        expected = student.classifier(torch.from_numpy(np.asarray(theirs, dtype=np.float32)))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    export_onnx(student, tmp_path / "model.onnx", pair=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    found = session.run(["logits"], {name: values.numpy() for name, values in inputs.items()})[0]
    np.testing.assert_allclose(found, ours, atol=1e-5)


def test_padding_order_and_special_tokens_do_not_matter(
    student: StaticForSequenceClassification, tokenizer: Tokenizer
) -> None:
    with torch.no_grad():
        together = student(**_inputs(tokenizer, TEXTS)).logits
        alone = torch.cat([student(**_inputs(tokenizer, [text])).logits for text in TEXTS])
        turned = student(torch.tensor([[7, 9, 11]])).logits, student(torch.tensor([[2, 11, 9, 7, 3, 1]])).logits
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(*turned)


def test_a_text_without_a_word_has_a_finite_gradient(student: StaticForSequenceClassification) -> None:
    loss = student(torch.tensor([[2, 3]]), torch.ones(1, 2, dtype=torch.int64)).logits.sum()
    loss.backward()
    assert all(torch.isfinite(one.grad).all() for one in student.parameters() if one.grad is not None)
    student.zero_grad()


def test_the_folder_loads_as_a_classifier(student: StaticForSequenceClassification, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path)
    again = load_classifier(tmp_path)
    assert isinstance(again, StaticForSequenceClassification)
    for name, value in student.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)
    assert again.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.slow
def test_a_new_process_loads_the_class(student: StaticForSequenceClassification, tmp_path: Path) -> None:
    student.save_pretrained(tmp_path)
    code = "import sys, pathlib; from potstill.models.loading import load_classifier as load; "
    code += "print(type(load(pathlib.Path(sys.argv[1]))).__name__)"
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "StaticForSequenceClassification"


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_the_student_has_its_teachers_task(
    task: TaskKind, tiny_base: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    names = ["x"] if task == "regression" else ["x", "y"]
    static_from_teacher(load_classifier(tiny_base, names, task), tokenizer, 8).save_pretrained(tmp_path)
    assert task_of(load_classifier(tmp_path)) == task


def test_vectors_are_at_most_as_wide_as_the_teacher(tiny_base: Path, tokenizer: Tokenizer) -> None:
    wide = static_from_teacher(load_classifier(tiny_base, ["no", "yes"]), tokenizer, 256)
    assert wide.config.hidden_size == 32
