from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification

from potstill.distillation.teachers.outputs import logits_of
from potstill.errors import LabelCountError, ModelError, UnsafeFileError
from potstill.models.loading import check_labels, load_classifier, save_model
from potstill.models.students.student import distilbert_from_bert, student_at_random, student_from_layers
from potstill.pretrained.families import FAMILIES, family_of, layers_of, layers_path
from potstill.pretrained.output_layer import output_layer, reorder_labels
from tests.potstill.models.tiny import batch, make

KINDS = sorted(FAMILIES)


def same(ours: Any, theirs: Any, inputs: dict[str, Any] | None = None) -> bool:
    """Whether two models give the same logits, to the bit."""
    inputs = inputs or batch()
    with torch.no_grad():
        return torch.equal(ours(**inputs).logits, theirs(**inputs).logits)


def by_hand(teacher: Any, layers: list[int]) -> Any:
    """Remove the other layers from the teacher's list."""
    cut = copy.deepcopy(teacher)
    path, _, name = layers_path(cut).rpartition(".")
    kept = torch.nn.ModuleList(layers_of(cut)[layer] for layer in layers)
    setattr(cut.get_submodule(path), name, kept)
    return cut


def size(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_all_layers_is_the_teacher(kind: str) -> None:
    teacher = make(kind)
    student = student_from_layers(teacher, [0, 1, 2, 3])
    assert same(student, teacher)
    assert size(student) == size(teacher)
    assert student.config.to_dict() == teacher.config.to_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [[0, 2], [0, 3, 1], [0]])
def test_a_student_is_the_teacher_without_the_other_layers(kind: str, layers: list[int], tmp_path: Path) -> None:
    teacher = make(kind)
    student = student_from_layers(teacher, layers)
    assert same(student, by_hand(teacher, layers))
    dropped = [layer for place, layer in enumerate(layers_of(teacher)) if place not in layers]
    assert size(student) == size(teacher) - sum(map(size, dropped))
    assert student.config.num_hidden_layers == len(layers)
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert same(loaded, student)
    assert size(loaded) == size(student)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"modernbert"}))
def test_a_student_may_start_with_any_layer(kind: str) -> None:
    teacher = make(kind)
    assert same(student_from_layers(teacher, [3, 1, 1]), by_hand(teacher, [3, 1, 1]))


@pytest.mark.parametrize("head", ["ForMaskedLM", ""])
@pytest.mark.parametrize("kind", KINDS)
def test_models_with_other_heads_and_without_a_head(kind: str, head: str) -> None:
    teacher = make(kind, head)
    student, cut, inputs = student_from_layers(teacher, [0, 2]), by_hand(teacher, [0, 2]), batch()
    with torch.no_grad():
        assert torch.equal(student(**inputs)[0], cut(**inputs)[0])


def test_a_student_has_copies_not_views() -> None:
    teacher = make("bert")
    student = student_from_layers(teacher, [0, 3])
    before = output_layer(teacher).weight.clone()
    with torch.no_grad():
        output_layer(student).weight.add_(1)
    assert torch.equal(output_layer(teacher).weight, before)


def test_a_modernbert_layer_keeps_its_kind_of_attention() -> None:
    teacher = make("modernbert", num_hidden_layers=5)
    layer_types = teacher.config.layer_types
    assert layer_types == ["full_attention", *["sliding_attention"] * 2, "full_attention", "sliding_attention"]
    student = student_from_layers(teacher, [0, 3, 4])
    assert student.config.layer_types == [layer_types[layer] for layer in (0, 3, 4)]
    assert teacher.config.layer_types == layer_types
    by_place = copy.deepcopy(student)  # what the class itself would make of three layers
    by_place.config.layer_types = layer_types[:3]
    for layer, kind in zip(layers_of(by_place), layer_types, strict=False):
        layer.attention_type = kind
    assert not same(by_place, student)


@pytest.mark.parametrize("layers", [[1, 2], [0, 1, 0]])
def test_a_modernbert_student_has_to_start_with_layer_0(layers: list[int]) -> None:
    with pytest.raises(ModelError, match="has to start with layer 0 and use it once"):
        student_from_layers(make("modernbert"), layers)


def test_a_list_that_happens_to_be_as_long_as_the_layers_stays_the_same() -> None:
    teacher = make("deberta-v2", num_hidden_layers=2)
    assert student_from_layers(teacher, [1]).config.pos_att_type == ["p2c", "c2p"]


def test_a_deberta_with_a_convolution() -> None:
    teacher = make("deberta-v2", conv_kernel_size=3)
    assert same(student_from_layers(teacher, [1, 3]), by_hand(teacher, [1, 3]))


@pytest.mark.parametrize("layers", [[0, 1, 2, 3], [0, 2], [3, 0]])
def test_a_distilbert_has_the_hidden_states_of_its_bert(layers: list[int]) -> None:
    teacher, inputs = make("bert"), batch()
    student = distilbert_from_bert(teacher, layers)
    assert type(student).__name__ == "DistilBertForSequenceClassification"
    with torch.no_grad():
        ours = student(**inputs, output_hidden_states=True)
        theirs = by_hand(teacher, layers)(**inputs, output_hidden_states=True)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == len(layers) + 1
    for our, their in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        real = inputs["attention_mask"].bool()
        assert torch.allclose(our[real], their[real], atol=2e-5)
    with torch.no_grad():  # without token type 0 they would not be
        student.distilbert.embeddings.position_embeddings.weight.copy_(
            teacher.bert.embeddings.position_embeddings.weight
        )
        without = student(**inputs, output_hidden_states=True).hidden_states[0]
    assert not torch.allclose(without, theirs.hidden_states[0], atol=1e-2)


def test_the_head_of_a_distilbert() -> None:
    teacher = make("bert")
    student = distilbert_from_bert(teacher, [0, 1])
    assert torch.equal(student.get_submodule("pre_classifier").weight, teacher.bert.pooler.dense.weight)
    assert torch.equal(output_layer(student).weight, teacher.classifier.weight)
    assert torch.equal(output_layer(student).bias, teacher.classifier.bias)


def test_a_distilbert_round_trip(tmp_path: Path) -> None:
    teacher = make("bert", id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    student = distilbert_from_bert(teacher, [0, 2])
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert same(loaded, student)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert check_labels(tmp_path, ["c", "a", "b"]) == [2, 0, 1]


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering"])
def test_a_distilbert_for_tokens_is_exact(head: str) -> None:
    teacher, inputs = make("bert", head, num_labels=2), batch()
    student = distilbert_from_bert(teacher, [0, 2])
    with torch.no_grad():
        ours, theirs = (logits_of(model(**inputs)) for model in (student, by_hand(teacher, [0, 2])))
    real = inputs["attention_mask"] == 1
    assert torch.allclose(ours[real], theirs[real], atol=1e-4)
    assert type(student).__name__ == f"DistilBert{head}"
    if head == "ForMaskedLM":
        assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_a_distilbert_cannot_take_pairs() -> None:
    with pytest.raises(ModelError, match="keep the teacher's class for pairs"):
        distilbert_from_bert(make("bert"), [0], pair=True)
    distilbert_from_bert(make("bert", type_vocab_size=1), [0], pair=True)  # its teacher cannot tell them apart either


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (("roberta", {}), "from BertForSequenceClassification or .* or BertForMaskedLM, not from a RobertaForSeq"),
        (("bert", {"layer_norm_eps": 1e-5}), "layer_norm_eps is 1e-05, a DistilBERT's is always 1e-12"),
        (("bert", {"is_decoder": True}), "is a decoder"),
        (("bert", {"num_hidden_layers": 2}), "names layer 3, but the teacher in memory has 2 layers"),
    ],
)
def test_models_without_a_distilbert_form_are_refused(teacher: tuple[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        distilbert_from_bert(make(teacher[0], **teacher[1]), [0, 3])


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ModelError, match=r"layer 6, but the teacher .* has 4 layers \(0 to 3\)"):
        student_from_layers(make("bert"), [0, 6])
    with pytest.raises(ModelError, match="names layer -1"):
        student_from_layers(make("bert"), [-1])
    with pytest.raises(ModelError, match="names no layer"):
        student_from_layers(make("bert"), [])


def test_an_unsupported_class_is_refused() -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, num_labels=2, pad_token_id=0)
    with pytest.raises(ModelError, match="gpt2 models are not supported"):
        student_from_layers(transformers.GPT2ForSequenceClassification(config), [0])


def saved(tmp_path: Path, names: list[str]) -> Path:
    teacher = make("bert")
    teacher.config.id2label = dict(enumerate(names))
    teacher.config.label2id = {name: index for index, name in enumerate(names)}
    save_model(teacher, tmp_path / "teacher", tmp_path)
    return tmp_path / "teacher"


def test_a_fine_tuned_teachers_labels_are_reordered(tmp_path: Path) -> None:
    folder = saved(tmp_path, ["neutral", "POSITIVE", "negative"])
    order = check_labels(folder, ["negative", "neutral", "positive"])
    assert order == [2, 0, 1]
    before, after = load_classifier(folder), load_classifier(folder)
    reorder_labels(after, order, ["negative", "neutral", "positive"])
    ids = torch.randint(5, 50, (2, 7))
    with torch.no_grad():
        assert torch.allclose(after(ids).logits, before(ids).logits[:, order])
    assert after.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}


def test_different_numbers_of_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelCountError, match=r"has 3 labels \(a, b, c\), the data has 2 \(x, y\)"):
        check_labels(saved(tmp_path, ["a", "b", "c"]), ["x", "y"])


def test_different_label_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelCountError, match="does not know the label 'x'"):
        check_labels(saved(tmp_path, ["a", "b", "c"]), ["a", "b", "x"])


def test_a_model_without_a_head_is_refused_as_fine_tuned_teacher(tiny_base: Path) -> None:
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
def test_an_incomplete_folder_is_refused(tmp_path: Path, name: str, message: str) -> None:
    folder = saved(tmp_path, ["a", "b", "c"])
    (folder / name).unlink()
    with pytest.raises(ModelError, match=message):
        load_classifier(folder)


def test_a_head_of_another_number_of_labels_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make("bert", num_labels=3).save_pretrained(tmp_path)
    logger, before = logging.getLogger("transformers"), transformers.logging.get_verbosity()
    logger.addHandler(caplog.handler)
    transformers.logging.set_verbosity_warning()  # as where nothing has set it, in Python
    try:
        assert load_classifier(tmp_path, ["a", "b"]).config.num_labels == 2
    finally:
        logger.removeHandler(caplog.handler)
        transformers.logging.set_verbosity(before)
    assert not caplog.records


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_at_random_has_the_class_and_the_sizes(kind: str, tmp_path: Path) -> None:
    parent = make(kind)
    torch.manual_seed(3)
    one = student_at_random(parent, 3, hidden_size=24, heads=4, intermediate_size=20)
    torch.manual_seed(3)
    two = student_at_random(parent, 3, hidden_size=24, heads=4, intermediate_size=20)
    family = family_of(one.config)
    sizes = (family.layers_key, family.hidden_key, family.heads_key, family.intermediate_key)
    assert [getattr(one.config, key) for key in sizes] == [3, 24, 4, 20]
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    one.save_pretrained(tmp_path)
    loaded = type(parent).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found = loaded(**batch()).logits
        assert torch.equal(found, one(**batch()).logits)
    assert found.shape == (2, 3)
    assert student_at_random(parent, 2).config.to_dict()[family.hidden_key] == 32
    with pytest.raises(ModelError, match="7 attention heads, which do not divide its hidden size of 32"):
        student_at_random(parent, 2, heads=7)
    if family.per_layer_keys:
        with pytest.raises(ModelError, match=r"names 5 layers, but the 4 of .* have a setting each"):
            student_at_random(parent, 5)
    else:
        assert getattr(student_at_random(parent, 5).config, family.layers_key) == 5
