from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from potstill.artifacts import write_json, write_manifest
from potstill.errors import ChecksumError, ModelError
from potstill.inference.runtime import Student, Text
from potstill.inference.sketch import directions
from potstill.scores.probabilities import softmax
from tests.conftest import generate_rows
from tests.potstill.serving.folders import LABELS, MAX_LENGTH, TEMPERATURE, card, classifier, flip_byte, write_serving

# Texts of mixed lengths, some beyond the limit, unsorted.
TEXTS: list[Text] = [" ".join([text] * (1 + index % 3)) for index, (text, _) in enumerate(generate_rows(40))]
PAIRS: list[Text] = [(str(first), str(second)) for first, second in zip(TEXTS, reversed(TEXTS), strict=True)]


@pytest.fixture(scope="module")
def fp32(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student(write_serving(tiny_base, tmp_path_factory.mktemp("fp32") / "serving", variant="fp32"), threads=2)


@pytest.fixture(scope="module")
def int8(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Student:
    return Student(write_serving(tiny_base, tmp_path_factory.mktemp("int8") / "serving"), threads=2)


def torch_logits(base: Path, texts: list[Text]) -> np.ndarray:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = classifier(base)
    rows = []
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        pair = len(parts) == 2
        encoded = tokenizer(
            *parts, truncation=True, max_length=MAX_LENGTH, return_tensors="pt", return_token_type_ids=pair
        )
        with torch.no_grad():
            rows.append(model(**encoded).logits[0].numpy())
    return np.stack(rows)


def test_logits_equal_those_of_the_torch_model_in_the_callers_order(fp32: Student, tiny_base: Path) -> None:
    logits = fp32.logits(TEXTS)
    assert logits.shape == (len(TEXTS), len(LABELS))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, torch_logits(tiny_base, TEXTS), atol=1e-4)


def test_a_prediction_has_the_sketch_of_the_input_of_the_head(fp32: Student, int8: Student, tiny_base: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    model, tokenizer = classifier(tiny_base), AutoTokenizer.from_pretrained(tiny_base)
    for text in TEXTS[:5]:
        encoded = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.no_grad():
            vector = model.bert(**encoded).pooler_output[0].numpy()
        expected = vector @ directions(len(vector))
        (exact,) = fp32.predict([text])
        (quantized,) = int8.predict([text])
        np.testing.assert_allclose(exact.sketch, expected, atol=1e-4)
        assert np.corrcoef(quantized.sketch, expected)[0, 1] > 0.9


def test_a_file_without_the_embedding_that_its_card_promises_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving")
    model = onnx.load(folder / "model.onnx")
    del model.graph.output[1]
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder)
    with pytest.raises(ModelError, match=r"cannot be loaded .*sentence_embedding"):
        Student(folder)
    # A card from before there were embeddings does not mention them, and is served.
    write_json(folder / "model.json", {key: value for key, value in card().items() if key != "embedding"})
    write_manifest(folder)
    assert Student(folder).predict(TEXTS[:1])[0].sketch == ()


def test_pairs_carry_segment_ids(tiny_base: Path, tmp_path: Path) -> None:
    student = Student(write_serving(tiny_base, tmp_path / "serving", variant="fp32", pair=True), threads=2)
    np.testing.assert_allclose(student.logits(PAIRS), torch_logits(tiny_base, PAIRS), atol=1e-4)
    assert not np.allclose(student.logits([("good", "bad film")]), student.logits([("good bad", "film")]), atol=1e-6)


def test_an_int8_answer_does_not_depend_on_its_neighbours(int8: Student) -> None:
    batched = int8.logits(TEXTS)
    separate = np.concatenate([int8.logits([text]) for text in TEXTS])
    np.testing.assert_array_equal(batched, separate)


def test_an_fp32_answer_hardly_depends_on_its_neighbours(fp32: Student) -> None:
    separate = np.concatenate([fp32.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(fp32.logits(TEXTS), separate, atol=1e-5)


def test_predictions(int8: Student) -> None:
    predictions = int8.predict(TEXTS)
    logits = int8.logits(TEXTS)
    assert [prediction.label for prediction in predictions] == [LABELS[index] for index in logits.argmax(axis=1)]
    assert len({prediction.label for prediction in predictions}) == 2
    probabilities = np.array([prediction.probabilities for prediction in predictions])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(probabilities, softmax(logits, TEMPERATURE), atol=1e-12)
    np.testing.assert_array_equal(np.array([prediction.logits for prediction in predictions]), logits)


def test_truncation_is_reported(int8: Student) -> None:
    short, long = int8.predict(["good film", "good film " * MAX_LENGTH])
    assert (short.truncated, long.truncated) == (False, True)
    assert short.tokens < long.tokens == MAX_LENGTH


def test_the_row_of_a_long_text_holds_no_more_than_the_model_reads(int8: Student) -> None:
    short, long = int8.predict_work(["good film " * MAX_LENGTH, "good film " * 2000]).rows
    assert len(pickle.dumps(long)) == len(pickle.dumps(short))


def test_no_texts_give_no_predictions(int8: Student) -> None:
    assert int8.predict([]) == []
    assert int8.logits([]).shape == (0, len(LABELS))


@pytest.mark.parametrize("text", ["", " ", "\x00", "e\u0301" * 50, "\u202eabc", "\u200b", "😀" * 30, "x" * 20_000])
def test_odd_texts_are_answered(int8: Student, text: str) -> None:
    (prediction,) = int8.predict([text])
    assert np.isfinite(prediction.probabilities).all()


def test_callers_in_many_threads_get_their_own_answers(int8: Student) -> None:
    expected = int8.logits(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for logits in pool.map(lambda _: int8.logits(TEXTS), range(16)):
            np.testing.assert_array_equal(logits, expected)


def test_a_list_longer_than_the_tokenizing_window(int8: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = int8.predict(TEXTS)
    monkeypatch.setattr("potstill.inference.runtime.WINDOW", 7)
    assert int8.predict(TEXTS) == expected


def test_the_wrong_kind_of_text_is_refused(int8: Student) -> None:
    with pytest.raises(TypeError, match="single texts"):
        int8.predict(PAIRS[:1])


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "model.json"])
def test_an_altered_file_is_refused(tiny_base: Path, tmp_path: Path, name: str) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving")
    flip_byte(folder / name)
    with pytest.raises(ChecksumError, match=name):
        Student(folder)


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"task": "regression"}, {"labels": ["one"]}, {"labels": ["1", 1]}, {"temperature": 0.0}]
)
def test_a_card_in_another_format_is_refused(tiny_base: Path, tmp_path: Path, change: dict[str, object]) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving")
    write_json(folder / "model.json", card(**change))
    write_manifest(folder)
    with pytest.raises(ModelError, match=r"model\.json"):
        Student(folder)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_file_that_is_not_a_model_is_one_sentence(tiny_base: Path, tmp_path: Path, name: str) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving")
    (folder / name).write_bytes(b"not a model")
    write_manifest(folder)
    with pytest.raises(ModelError, match="run the export stage again"):
        Student(folder)


@pytest.mark.slow
def test_serving_imports_no_training_tool() -> None:
    forbidden = ["torch", "transformers", "mlflow", "dvc", "prefect", "pandas", "datasets", "sklearn", "pyarrow"]
    code = (
        "import sys, potstill.serving.app, potstill.serving.launch, potstill.inference.runtime; "
        f"print([name for name in {forbidden!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
