from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from potstill.errors import LabelCountError, ModelError, UnsafeFileError
from potstill.models.loading import check_labels, load_classifier, output_layer, reorder_labels, save_model
from potstill.models.student import LAYERS, student_from_layers

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 0,
}
CLASSES = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {}),
    "electra": ("Electra", {"embedding_size": 16}),
    "mpnet": ("MPNet", {}),
    "deberta-v2": ("DebertaV2", {}),
    "distilbert": ("DistilBert", {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 32}),
}


def make(kind: str) -> Any:
    name, extra = CLASSES[kind]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(**(SIZES | extra))
    return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_a_student_of_all_layers_is_the_teacher(kind: str) -> None:
    assert kind in LAYERS
    teacher = make(kind)
    ids = torch.randint(5, 50, (2, 7))
    student = student_from_layers(teacher, [0, 1, 2, 3])
    with torch.no_grad():
        assert torch.equal(student(ids).logits, teacher(ids).logits)


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_chosen_layers_are_copied_in_order(kind: str) -> None:
    teacher = make(kind)
    student = student_from_layers(teacher, [0, 3])
    assert student.config.num_hidden_layers == 2
    path = f"{teacher.base_model_prefix}.{LAYERS[kind]}"
    for position, layer in enumerate([0, 3]):
        ours = student.get_submodule(f"{path}.{position}").state_dict()
        theirs = teacher.get_submodule(f"{path}.{layer}").state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(output_layer(student).weight, output_layer(teacher).weight)
    before = output_layer(teacher).weight.clone()
    with torch.no_grad():
        output_layer(student).weight.add_(1)
    assert torch.equal(output_layer(teacher).weight, before)  # copies, not views


def test_layers_that_do_not_exist() -> None:
    with pytest.raises(ModelError, match=r"layer 6, but the teacher .* has 4 layers \(0 to 3\)"):
        student_from_layers(make("bert"), [0, 6])


def test_a_class_that_is_not_known_says_what_is_missing() -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, num_labels=2, pad_token_id=0)
    with pytest.raises(ModelError, match="students of a gpt2 teacher are not supported"):
        student_from_layers(transformers.GPT2ForSequenceClassification(config), [0])


def saved(tmp_path: Path, names: list[str]) -> Path:
    teacher = make("bert")
    teacher.config.id2label = dict(enumerate(names))
    teacher.config.label2id = {name: index for index, name in enumerate(names)}
    save_model(teacher, tmp_path / "teacher", tmp_path)
    return tmp_path / "teacher"


def test_a_fine_tuned_teacher_is_put_into_our_label_order(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["neutral", "POSITIVE", "negative"])
    order = check_labels(folder, ["negative", "neutral", "positive"])
    assert order == [2, 0, 1]
    before, after = load_classifier(folder), load_classifier(folder)
    reorder_labels(after, order, ["negative", "neutral", "positive"])
    ids = torch.randint(5, 50, (2, 7))
    with torch.no_grad():
        assert torch.allclose(after(ids).logits, before(ids).logits[:, order])
    assert after.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}


def test_label_counts_that_differ(tmp_path: Path) -> None:
    with pytest.raises(LabelCountError, match=r"has 3 labels \(a, b, c\), the data has 2 \(x, y\)"):
        check_labels(saved(tmp_path, ["a", "b", "c"]), ["x", "y"])


def test_label_names_that_differ(tmp_path: Path) -> None:
    with pytest.raises(LabelCountError, match="does not know the label 'x'"):
        check_labels(saved(tmp_path, ["a", "b", "c"]), ["a", "b", "x"])


def test_a_base_without_a_head_is_no_fine_tuned_teacher(tiny_base: Path) -> None:
    with pytest.raises(LabelCountError, match=r"set teacher\.fine_tuned to false"):
        check_labels(tiny_base, ["a", "b"])


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["a", "b", "c"])
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("name", "message"), [("config.json", "no config.json"), ("model.safetensors", "no .safetensors")]
)
def test_an_incomplete_folder(tmp_path: Path, name: str, message: str) -> None:
    folder = saved(tmp_path, ["a", "b", "c"])
    (folder / name).unlink()
    with pytest.raises(ModelError, match=message):
        load_classifier(folder)
