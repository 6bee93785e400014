from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from potstill.data.tokens.in_memory import as_list, tokenize_in_memory
from potstill.distill import distill
from potstill.errors import LabelError, PotstillError
from potstill.models.loading import load_classifier, save_model
from potstill.pretrained.inspection import inspect_model, read_tokenizer
from tests.conftest import BAD, GOOD, NEUTRAL, generate_rows
from tests.potstill.models.tiny import make
from tests.tasks.test_teacher import save_other
from tests.teachers import change_config, change_weights, copy_of, read_rows

ROWS = generate_rows(120)
TEXTS, LABELS = [text for text, _ in ROWS], [label for _, label in ROWS]
QUICK: dict[str, Any] = {"epochs": 1, "max_length": 32, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def teacher(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("teacher")
    save_model(load_classifier(tiny_base, ["negative", "positive"]), folder, tiny_base)
    return folder


def test_a_folder_and_texts_give_a_student_that_pipeline_loads(tmp_path: Path, teacher: Path) -> None:
    from transformers import pipeline

    found = distill(teacher, TEXTS, LABELS, layers=[0, 2], transfer=["one more"], **QUICK)
    assert found.student.config.num_hidden_layers == 2
    assert found.report["rows"] == 109
    assert set(found.report) == {"rows", "dev_rows", "agreement", "kl", "accuracy", "teacher_accuracy"}
    found.save_pretrained(tmp_path)
    assert pipeline("text-classification", model=str(tmp_path))("superb")[0]["label"] in {"negative", "positive"}


def test_a_loaded_teacher_of_pairs_without_labels_with_terms(teacher: Path) -> None:
    from transformers import AutoTokenizer

    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    model = load_classifier(teacher)
    terms = [{"kind": "relations", "heads": 4}, {"kind": "hidden", "layers": [[1, 1]]}]
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    found = distill(model, pairs, tokenizer=tokenizer, dev=(pairs[:8], None), terms=terms, accumulate=2, **QUICK)
    assert found.student.config.num_hidden_layers == 2
    assert set(found.report) == {"rows", "dev_rows", "agreement", "kl"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_student(teacher: Path) -> None:
    one, two = (distill(teacher, TEXTS, LABELS, **QUICK).student.state_dict() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS[:3]}, "texts has 120 texts and 3 labels"),
        ({"labels": ["maybe"] * 120}, r"does not know the label 'maybe' of texts\[0\]; it knows negative, positive"),
        ({"labels": [2] * 120}, r"does not know the label 2 of texts\[0\]"),
        ({"labels": [*LABELS[:7], 0.6, *LABELS[8:]]}, r"does not know the label 0\.6 of texts\[7\]"),
        ({"labels": [*LABELS[:7], None, *LABELS[8:]]}, r"texts\[7\] has no label \(None\); label it, remove it"),
        ({"labels": [*LABELS[:7], float("nan"), *LABELS[8:]]}, r"texts\[7\] has no label \(nan\)"),
        ({"labels": [*LABELS[:7], pd.NA, *LABELS[8:]]}, r"texts\[7\] has no label \(<NA>\)"),
        ({"labels": [*LABELS[:7], " ", *LABELS[8:]]}, r"texts\[7\] has no label \(' '\)"),
        ({"dev": (TEXTS[:2], ["positive", None])}, r"dev\[1\] has no label"),
        ({"texts": pd.DataFrame({"text": TEXTS})}, "texts is a DataFrame; give one column of it"),
        ({"texts": pd.Series([*TEXTS[:3], None]), "labels": None}, r"texts\[3\] is (None|nan)"),
        ({"texts": "a text"}, "texts is one string; give a list"),
        ({"texts": ["a text", None], "labels": None}, r"texts\[1\] is None; it has to be a string"),
        ({"texts": [("a", "b"), "c"], "labels": None}, r"texts\[1\] is 'c'; it has to be a pair of strings"),
        ({"texts": [], "labels": []}, "texts has 0 texts"),
        ({"layers": [0, 7]}, "names layer 7, but the teacher in .* has 4 layers"),
        ({"temprature": 4.0}, "unknown key 'distill.temprature'; did you mean 'temperature'"),
        ({"terms": [{"kind": "hidden", "layers": [[9, 1]]}]}, "hidden names layer 9 of the student"),
        ({"max_length": 512}, "max_length is 512; set it from 3 to the teacher's 64 positions"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(
    teacher: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.training.together.train", lambda *_: pytest.fail("it trained"))
    with pytest.raises(PotstillError, match=message):
        distill(**({"teacher": teacher, "texts": TEXTS, "labels": LABELS} | QUICK | changes))


def test_columns_of_a_table_are_read_by_their_order_whatever_their_index(teacher: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    frame = pd.DataFrame({"text": TEXTS, "label": [f" {label.upper()} " for label in LABELS]})
    frame = frame[frame.index % 3 != 0]
    kept = [row for row in range(len(TEXTS)) if row % 3 != 0]
    model, words = load_classifier(teacher), AutoTokenizer.from_pretrained(teacher)
    texts, labels = as_list("texts", frame["text"]), as_list("labels", frame["label"])
    found = tokenize_in_memory(words, model, texts, labels, [], None, 32, 17, tmp_path / "a")
    wanted = tokenize_in_memory(
        words, model, [TEXTS[row] for row in kept], [LABELS[row] for row in kept], [], None, 32, 17, tmp_path / "b"
    )
    assert found.rows.labels.tolist() == wanted.rows.labels.tolist()
    assert found.rows.lengths.tolist() == wanted.rows.lengths.tolist()
    assert distill(teacher, frame["text"], frame["label"], **QUICK).report["dev_rows"] == 8


def test_labels_that_are_numbers_are_names_first(tiny_base: Path, tmp_path: Path) -> None:
    """A teacher of 1 to 5 stars counts from 0: its label 1 is its output 0, and 1.0 of pandas the same."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tiny_base)
    model = load_classifier(tiny_base, [1, 2, 3, 4, 5])
    rows = tokenize_in_memory(
        words, model, TEXTS[:5], [1, 2.0, "3", np.int64(4), 5], [], (TEXTS[:5], None), 32, 17, tmp_path / "a"
    )
    assert rows.rows.labels.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(LabelError, match=r"does not know the label 0 of texts\[1\]; it knows 1, 2, 3, 4, 5"):
        tokenize_in_memory(words, model, TEXTS[:2], [1, 0], [], (TEXTS[:5], None), 32, 17, tmp_path / "b")
    named = load_classifier(tiny_base, ["negative", "positive"])
    rows = tokenize_in_memory(words, named, TEXTS[:3], [1, 0.0, True], [], (TEXTS[:5], None), 32, 17, tmp_path / "c")
    assert rows.rows.labels.tolist() == [1, 0, 1]


def test_a_teacher_without_a_head_or_a_tokenizer(tiny_base: Path, teacher: Path) -> None:
    with pytest.raises(PotstillError, match=r"is a BertModel; give a fine-tuned model \(\.\.\.ForSequenceClass"):
        distill(tiny_base, TEXTS)
    with pytest.raises(PotstillError, match="give its tokenizer too"):
        distill(load_classifier(teacher), TEXTS)


@pytest.fixture(scope="module")
def others(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Teachers next to the first: another seed, the same with its labels the other way round, and other labels."""
    folders = {}
    for name, labels in {
        "seed": ["negative", "positive"],
        "turned": ["Positive", "Negative"],
        "other": ["a", "b"],
    }.items():
        torch.manual_seed(7)
        model = load_classifier(tiny_base, labels)
        if name == "turned":
            with torch.no_grad():
                model.classifier.weight.copy_(model.classifier.weight.flip(0))
        folders[name] = tmp_path_factory.mktemp(name)
        save_model(model, folders[name], tiny_base)
    return folders


def weights_of(found: Any) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = found.student.state_dict()
    return state


@pytest.mark.slow
def test_several_teachers_are_one_and_their_labels_are_joined_by_name(teacher: Path, others: dict[str, Path]) -> None:
    one, turned = (
        weights_of(distill([teacher, others[name]], TEXTS, LABELS, weights=[1, 3], **QUICK))
        for name in ("seed", "turned")
    )
    alone, twice = (weights_of(distill(given, TEXTS, LABELS, **QUICK)) for given in (teacher, [teacher, teacher]))
    name = "bert.encoder.layer.0.output.dense.weight"
    assert all(torch.allclose(value, turned[key], atol=1e-6) for key, value in one.items())
    assert all(torch.allclose(value, twice[key], atol=1e-6) for key, value in alone.items())
    assert not torch.allclose(one[name], alone[name], atol=1e-5)


def test_a_teacher_with_another_tokenizer_reads_its_own_tokens(tmp_path: Path, teacher: Path) -> None:
    found = distill([teacher, save_other(tmp_path, ["positive", "negative"])], TEXTS, LABELS, layers=[0], **QUICK)
    assert found.tokenizer.vocab_size == load_classifier(teacher).config.vocab_size
    assert set(found.report) >= {"accuracy", "teacher_accuracy"}


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"assistants": [[0, 1, 3]], "layers": [0, 3]}, 2),
        ({"mutual": {"students": [[0, 3], [1, 2]]}, "layers": [0, 3]}, 2),
        ({"lora": {"rank": 2}}, 2),
    ],
)
def test_methods_of_the_distill_section_are_keywords(
    teacher: Path, settings: dict[str, Any], layers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = distill(teacher, TEXTS, LABELS, **QUICK, **settings)
    assert found.student.config.num_hidden_layers == layers
    assert not [name for name in weights_of(found) if "lora" in name]
    said = capsys.readouterr().out
    assert ("assistant 1 of 1" in said) == ("assistants" in settings)
    assert ("mean of the others" in said) == ("mutual" in settings)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["first", "other"], {}, "the teacher in .* does not know the label 'negative'; its labels are a, b"),
        (["first", "seed"], {"weights": [1.0]}, r"weights is \[1.0\] of 2 teachers; give each a number above 0"),
        (["first", "seed"], {"weights": [1.0, 0.0]}, "give each a number above 0"),
        ([], {}, "there is no teacher"),
        (["first"], {"assistants": [[0, 2, 9]]}, "distill.assistants names layer 9"),
        (["first"], {"mutual": {"students": [[0, 2]]}}, "at least two"),
    ],
)
def test_teachers_and_methods_that_do_not_fit_are_refused(
    teacher: Path, others: dict[str, Path], names: list[str], changes: dict[str, Any], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("potstill.training.together.train", lambda *_: pytest.fail("it trained"))
    with pytest.raises(PotstillError, match=message):
        distill([({"first": teacher} | others)[name] for name in names], TEXTS, LABELS, **QUICK, **changes)


# --- several labels, numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "names", "labels", "report"),
    [
        (
            "multi_label", ["good", "bad"], [["good"], [], ["bad", "good"], [1]],
            {"agreement", "kl", "micro_f1", "teacher_micro_f1"},
        ),
        ("regression", ["score"], [0.5, -1, 2.0, 3], {"correlation", "rmse", "r2", "teacher_r2"}),
    ],
)  # fmt: skip
def test_a_teacher_of_another_task_teaches_it(
    task: Any, names: list[str], labels: list[Any], report: set[str], tiny_base: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, pipeline

    torch.manual_seed(3)
    model, words = load_classifier(tiny_base, names, task), AutoTokenizer.from_pretrained(tiny_base)
    gold = (labels * 30)[:120]
    found = distill(model, TEXTS, gold, tokenizer=words, layers=[0, 2], transfer=["one more"], **QUICK)
    assert set(found.report) == {"rows", "dev_rows"} | report
    found.save_pretrained(tmp_path)
    scores = pipeline("text-classification", model=str(tmp_path), top_k=None)(["superb"])[0]
    assert {item["label"] for item in scores} == set(names)
    alone = distill([model, model], TEXTS, tokenizer=words, layers=[0], **QUICK)
    assert set(alone.report) == {"rows", "dev_rows"} | {
        key for key in report if key in ("agreement", "kl", "correlation", "rmse")
    }


def test_teachers_whose_labels_have_no_names_have_those_of_the_first(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tiny_base)
    named, counted = (
        load_classifier(tiny_base, names, "multi_label") for names in (["a", "b"], ["LABEL_0", "LABEL_1"])
    )
    found = distill([named, counted], TEXTS, tokenizer=words, layers=[0], **QUICK)
    assert found.student.config.id2label == {0: "a", 1: "b"}


@pytest.mark.slow
def test_teachers_of_different_labels_make_one_student_of_all(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tiny_base)
    one, two = (load_classifier(tiny_base, names, "multi_label") for names in (["good", "bad"], ["Long", "BAD"]))
    with torch.no_grad():
        one.classifier.bias.copy_(torch.tensor([4.0, -4.0]))
        two.classifier.bias.copy_(torch.tensor([-4.0, -4.0]))
    gold = [["good"], ["Long", "good"], []] * 40
    found = distill([one, two], TEXTS, gold, tokenizer=words, weights=[1, 3], layers=[0], **QUICK | {"epochs": 20})
    assert [found.student.config.id2label[index] for index in range(3)] == ["good", "bad", "Long"]
    with torch.no_grad():
        logits = found.student(**words(TEXTS[:8], return_tensors="pt", padding=True)).logits
    assert (logits[:, 0] > 0).all()
    assert (logits[:, 1:] < 0).all()
    said = capsys.readouterr().out
    assert "distill: teacher 1 answers good, bad" in said
    assert "distill: teacher 2 answers Long, bad" in said
    assert (one.config.num_labels, one.classifier.out_features) == (2, 2)  # as it was


@pytest.mark.parametrize(
    ("task", "names", "labels", "message"),
    [
        ("multi_label", ["good", "bad"], ["good"] * 120, r"texts\[0\] has the label 'good'; give a list"),
        ("multi_label", ["good", "bad"], [[1, 1]] * 120, r"texts\[0\] names a label twice \(\[1, 1\]\)"),
        ("multi_label", ["good", "bad"], [["good", None]] * 120, r"texts\[0\] has no label"),
        ("multi_label", ["good", "bad"], [["fine"]] * 120, "does not know the label 'fine'"),
        ("regression", ["score"], ["much"] * 120, r"the label of texts\[0\] is 'much', but the teacher gives a number"),
        ("regression", ["score"], [*[1.0] * 119, float("nan")], r"texts\[119\] has no label"),
        ("regression", ["score"], [*[1.0] * 119, None], r"texts\[119\] has no label"),
        ("regression", ["score"], [*[1.0] * 119, float("inf")], r"the label of texts\[119\] is inf"),
        ("regression", ["score"], [1.0] * 3, "texts has 120 texts and 3 labels"),
    ],
)
def test_labels_that_are_not_of_the_teachers_task(
    task: Any, names: list[str], labels: list[Any], message: str, tiny_base: Path
) -> None:
    from transformers import AutoTokenizer

    model, words = load_classifier(tiny_base, names, task), AutoTokenizer.from_pretrained(tiny_base)
    with pytest.raises(PotstillError, match=message):
        distill(model, TEXTS, labels, tokenizer=words, **QUICK)


def test_students_of_numbers_teach_each_other(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoTokenizer

    model, words = load_classifier(tiny_base, ["score"], "regression"), AutoTokenizer.from_pretrained(tiny_base)
    distill(model, TEXTS, tokenizer=words, layers=[0], mutual={"students": [[0], [1]]}, **QUICK)
    assert "+ 1 * MSE to the mean of the others, for each of 2 students" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "kind", "weights"),
    [
        ({"prune": {"ffn": 20, "rows": 40}}, "bert", 20),
        ({"student": {"kind": "distilbert"}}, "distilbert", 64),
        ({"student": {"kind": "config", "intermediate_size": 24}}, "bert", 24),
        ({"student": {"kind": "static", "dimensions": 8}}, "potstill-static", None),
    ],
)
def test_a_student_of_another_kind_or_a_narrower_one(
    teacher: Path, settings: dict[str, Any], kind: str, weights: int | None
) -> None:
    found = distill(teacher, TEXTS, LABELS, layers=[0, 2], **(QUICK | settings))
    config = found.student.config
    assert config.model_type == kind
    if weights is not None:
        assert config.num_hidden_layers == 2
        assert getattr(config, "intermediate_size", getattr(config, "hidden_dim", None)) == weights
    assert 0 <= found.report["agreement"] <= 1


def test_what_it_cannot_make_is_said_and_not_left_out(teacher: Path) -> None:
    with pytest.raises(PotstillError, match="mixup asks one live teacher about blends of rows, but there are several"):
        distill([teacher, teacher], TEXTS, LABELS, mixup={}, **QUICK)
    with pytest.raises(PotstillError, match="starts from another encoder; name its folder: student="):
        distill(teacher, TEXTS, LABELS, student={"kind": "checkpoint"}, **QUICK)
    with pytest.raises(PotstillError, match="with assistants or mutual students do not start from a general student"):
        distill(teacher, TEXTS, LABELS, layers=[0, 2], assistants=[[0, 1, 2]], general=teacher, **QUICK)
    with pytest.raises(PotstillError, match="a static student has none; leave it out"):
        distill(teacher, TEXTS, LABELS, student={"kind": "static"}, vocabulary={"rank": 4}, **QUICK)
    with pytest.raises(PotstillError, match="max_tokens of the vocabulary is auto, which is for runs with a gate"):
        distill(teacher, TEXTS, LABELS, vocabulary={"max_tokens": "auto"}, **QUICK)
    with pytest.raises(PotstillError, match=r"unknown key 'vocabulary\.max_token'"):
        distill(teacher, TEXTS, LABELS, vocabulary={"max_token": 90}, **QUICK)


# --- answers that are places in a text --------------------------------------------------------------------------------

SENTENCES = [
    f"{good} in {place} with a {bad} story" for good in GOOD[:5] for place in ("movie", "camera") for bad in BAD[:3]
]
ENTITIES = [[[text.index(" in ") + 4, text.index(" with"), "LOC"]] for text in SENTENCES]
QUESTIONS = [("where is it", f"{text} and {' '.join(NEUTRAL * 3)}") for text in SENTENCES]
REPLIES = [{"text": [text[a:b]], "answer_start": [a]} for text, ((a, b, _),) in zip(SENTENCES, ENTITIES, strict=True)]
MARKED: dict[str, tuple[Any, Any, list[str]]] = {
    # In another order than O, B, I, as published models have it.
    "token_classification": (SENTENCES, ENTITIES, ["B-LOC", "I-LOC", "B-PER", "I-PER", "O"]),
    "question_answering": (QUESTIONS, REPLIES, ["LABEL_0", "LABEL_1"]),
}


@pytest.fixture(scope="module")
def markers(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two random teachers of each such task."""
    found: dict[str, list[Path]] = {}
    for task, (_, _, names) in MARKED.items():
        found[task] = [tmp_path_factory.mktemp(f"{task}-{seed}") for seed in (1, 2)]
        for seed, folder in enumerate(found[task]):
            torch.manual_seed(seed)
            model = load_classifier(tiny_base, names, task)  # type: ignore[arg-type]
            with torch.no_grad():
                model.get_submodule("qa_outputs" if task[0] == "q" else "classifier").weight.mul_(20)
            save_model(model, folder, tiny_base)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("task", MARKED)
@pytest.mark.parametrize("teachers", [1, 2])
def test_entities_and_answers(task: str, teachers: int, markers: dict[str, list[Path]], tmp_path: Path) -> None:
    texts, labels, _ = MARKED[task]
    found = distill(
        markers[task][:teachers], texts, labels, transfer=texts[:3], layers=[0, 2], terms=[{"kind": "hidden"}],
        **(QUICK | {"max_length": 20}),
    )  # fmt: skip
    assert set(found.report) == {"rows", "dev_rows", "agreement", "kl", "f1", "teacher_f1"}
    windows = task == "question_answering"  # contexts longer than one
    assert (found.report["rows"] > len(texts)) == windows
    assert (found.report["dev_rows"] > 3) == windows
    found.save_pretrained(tmp_path)
    names = list(load_classifier(tmp_path).config.id2label.values())
    assert names == (["LABEL_0", "LABEL_1"] if windows else ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])


@pytest.mark.slow
def test_a_student_of_all_layers_that_learns_nothing_answers_as_the_teacher(markers: dict[str, list[Path]]) -> None:
    """Whatever the order of its labels; the loaded teacher stays as it is."""
    from transformers import AutoTokenizer

    for task, (texts, labels, names) in MARKED.items():
        folder = markers[task][0]
        teacher = load_classifier(folder)
        found = distill(
            teacher, texts, labels, tokenizer=AutoTokenizer.from_pretrained(folder), layers=[0, 1, 2, 3],
            **(QUICK | {"learning_rate": 1e-12}),
        )  # fmt: skip
        assert found.report["agreement"] == 1
        assert abs(found.report["kl"]) < 1e-6
        assert found.report["f1"] == found.report["teacher_f1"]
        assert list(teacher.config.id2label.values()) == names
        told = distill(teacher, texts, tokenizer=AutoTokenizer.from_pretrained(folder), layers=[0], **QUICK)
        assert set(told.report) == {"rows", "dev_rows", "agreement", "kl"}


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        (
            "token_classification",
            {"labels": [[[0, 3, "ORG"]]] * 30},
            r"the type 'ORG' of texts\[\d+\]; it knows LOC, PER",
        ),
        ("token_classification", {"labels": [*[[]] * 29, None]}, r"texts\[29\]"),
        ("question_answering", {"labels": [None] * 30}, r"texts\[\d+\]"),
        ("token_classification", {"labels": [[[0, 999, "LOC"]]] * 30}, r"texts\[\d+\]: the span 0-999 is not within"),
        ("token_classification", {"texts": QUESTIONS, "labels": None}, "a token_classification teacher takes single"),
        ("question_answering", {"texts": SENTENCES, "labels": None}, "takes pairs of a question and its context"),
        ("question_answering", {"labels": ["here"] * 30}, r"texts\[\d+\]: the answers are 'here'; write"),
        ("question_answering", {"terms": [{"kind": "dist"}]}, "dist is on classes, but answers are spans"),
        ("token_classification", {"student": {"kind": "static"}}, "a static student answers about whole texts"),
    ],
)
def test_places_that_are_none(
    task: str, changes: dict[str, Any], message: str, markers: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.training.together.train", lambda *_: pytest.fail("it trained"))
    texts, labels, _ = MARKED[task]
    with pytest.raises(PotstillError, match=message):
        distill(**({"teacher": markers[task][0], "texts": texts, "labels": labels} | QUICK | changes))


def test_teachers_of_places_have_one_tokenizer_and_bio_labels(
    markers: dict[str, list[Path]], tiny_base: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = markers["token_classification"][0]
    other = AutoTokenizer.from_pretrained(folder)
    other.add_tokens(["anotherword"])
    wider = load_classifier(folder)
    wider.resize_token_embeddings(len(other))
    save_model(wider, tmp_path, folder)
    other.save_pretrained(tmp_path)
    with pytest.raises(PotstillError, match="the teachers have several tokenizers"):
        distill([folder, tmp_path], SENTENCES, ENTITIES, **QUICK)
    unnamed = load_classifier(tiny_base, ["LABEL_0", "LABEL_1", "LABEL_2"], "token_classification")
    with pytest.raises(PotstillError, match="labels are LABEL_0, LABEL_1, LABEL_2, not O and for each type B-TYPE"):
        distill(unnamed, SENTENCES, tokenizer=AutoTokenizer.from_pretrained(folder), **QUICK)


# --- a student from another encoder -----------------------------------------------------------------------------------


def checkpoint(folder: Path) -> dict[str, str]:
    return {"kind": "checkpoint", "path": str(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("teachers", [1, 2])
def test_a_checkpoint_has_its_own_tokenizer(
    teachers: int, teacher: Path, others: dict[str, Path], other_base: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, pipeline

    given = [teacher, others["turned"]][:teachers]
    found = distill(given, TEXTS, LABELS, student=checkpoint(other_base), transfer=["one more"], **QUICK)
    assert set(found.report) == {"rows", "dev_rows", "agreement", "kl", "accuracy", "teacher_accuracy"}
    assert (found.student.config.num_hidden_layers, found.student.config.hidden_size) == (3, 16)
    assert found.student.config.id2label == {0: "negative", 1: "positive"}
    assert found.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(other_base).get_vocab()
    found.save_pretrained(tmp_path)
    assert pipeline("text-classification", model=str(tmp_path))("superb")[0]["label"] in {"negative", "positive"}


def test_a_checkpoint_with_the_teachers_tokenizer_is_compared_by_token(teacher: Path, tiny_base: Path) -> None:
    hidden = [{"kind": "hidden"}]
    found = distill(teacher, TEXTS, LABELS, student=checkpoint(tiny_base), layers=[0, 3], terms=hidden, **QUICK)
    assert found.student.config.num_hidden_layers == 2


@pytest.mark.slow
@pytest.mark.parametrize("task", MARKED)
def test_places_are_learned_through_characters(task: str, markers: dict[str, list[Path]], other_base: Path) -> None:
    """Of two teachers, in other windows than theirs; the student comes nearer to them, with gold labels and without."""
    texts, labels, _ = MARKED[task]
    settings: dict[str, Any] = QUICK | {"max_length": 48, "student": checkpoint(other_base), "batch_tokens": 512}
    first, last = (
        distill(markers[task], texts[:20], **settings | {"epochs": epochs, "learning_rate": rate}).report
        for epochs, rate in ((1, 1e-12), (3, 0.02))
    )
    assert set(first) == {"rows", "dev_rows", "agreement", "kl"}
    assert last["kl"] < 0.8 * first["kl"]
    told = distill(markers[task][0], texts[:20], labels[:20], **settings).report
    assert set(told) == {"rows", "dev_rows", "agreement", "kl", "f1", "teacher_f1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terms": [{"kind": "hidden"}]}, "the loss term hidden compares token by token"),
        ({"mixup": {}}, "mixup blends rows token by token"),
        ({"layers": [0, 3]}, "names layer 3, but the checkpoint in .* has 3 layers"),
        ({"max_length": 200}, "set it from 3 to the teacher's 64 positions"),
        ({"student": {"kind": "checkpoint", "path": "nowhere"}}, "nowhere has no config.json"),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    changes: dict[str, Any], message: str, teacher: Path, other_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.training.together.train", lambda *_: pytest.fail("it trained"))
    with pytest.raises(PotstillError, match=message):
        distill(teacher, TEXTS, LABELS, **({"student": checkpoint(other_base)} | QUICK | changes))


# --- a teacher that is looked at first --------------------------------------------------------------------------------


def test_positions_that_count_from_the_pad_token_are_no_tokens(tiny_base: Path) -> None:
    model, words = make("roberta", vocab_size=300, num_labels=2), read_tokenizer(tiny_base)
    with pytest.raises(PotstillError, match="max_length is 39; set it from 3 to the teacher's 38 positions"):
        distill(model, TEXTS, tokenizer=words, **QUICK | {"max_length": 39})


@pytest.mark.slow
def test_a_folder_is_refused_as_the_stage_ingest_does(trained_teacher: Path, tmp_path: Path) -> None:
    folder = copy_of(trained_teacher, tmp_path / "saved")
    change_weights(folder, lambda own: {name: value for name, value in own.items() if "classifier" not in name})
    with pytest.raises(PotstillError) as look:
        inspect_model(folder)
    with pytest.raises(PotstillError) as here:
        distill(folder, TEXTS, **QUICK)
    assert str(here.value) == str(look.value)


def test_labels_in_another_order_are_refused(
    trained_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("potstill.training.together.train", lambda *_: pytest.fail("it trained"))
    folder = copy_of(trained_teacher, tmp_path / "saved")
    change_config(folder, id2label={0: "spam", 1: "ham"}, label2id=None)
    texts, labels = (list(column) for column in zip(*read_rows(), strict=True))
    with pytest.raises(PotstillError, match=r"in another order 100.0%; .* id2label = .0: 'ham', 1: 'spam'."):
        distill(folder, texts, labels, **QUICK)
