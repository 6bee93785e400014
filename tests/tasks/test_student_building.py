"""Students with a vocabulary, a class or a size of their own, through the stages that make and use them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from model2vec import StaticModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from potstill.artifacts import file_sums, read_json, write_manifest
from potstill.config.base import Project
from potstill.config.params_file import parse_distill
from potstill.config.yaml_file import read_params
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.token_folder import TokenFolder
from potstill.distillation.teachers.predict import predict_logits
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import ModelError
from potstill.inference.runtime import Student
from potstill.models.loading import load_classifier
from potstill.models.students.vocabulary import dropped_words
from tasks.stage import Stage
from tasks.student_building import student_builder
from tests.conftest import generate_rows
from tests.marked import write_jsonl
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

PREPARED = ("ingest", "prepare", "validate", "tokenize")
LEARNED = ("teacher", "signals", "distill", "finetune", "control", "proof", "export", "evaluate")
# Every tiny run: one short epoch, on the CPU, in fp32.
QUICK: dict[str, dict[str, Any]] = {
    "project": {"device": "cpu", "precision": "fp32"},
    "evaluate": {"latency_texts": 10, "throughput_texts": 20, "rounds": 1, "bootstrap": 100},
    "teacher": {"epochs": 1},
    "distill": {"layers": [0, 2], "terms": [{"kind": "rkd"}]},
    "control": {"epochs": 1, "initialised": False},
    "export": {"int8_fp32_products": 0, "embedding_bits": 4},
    "quantize": {"teacher": False},
    "gate": {"min_advantage": None},
}
MAX_TOKENS, MAX_LENGTH, RANK = 90, 48, 16


@pytest.fixture(scope="module")
def trained(slow: None, tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path) -> Path:
    """A workspace with a trimmed student, all DVC stages run."""
    folder = make_workspace(
        tmp_path_factory.mktemp("trimmed") / "w", tiny_rows, tiny_base,
        **QUICK, tokenize={"max_length": MAX_LENGTH, "vocabulary": {"max_tokens": MAX_TOKENS, "rank": RANK}},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        run_stages(*PREPARED, *LEARNED, monkeypatch=patch, folder=folder)
    return folder


def rows(tokens: Path, split: str) -> list[list[int]]:
    dataset = TokenDataset.open(tokens / f"{split}.arrow", 0)
    found = dataset.batch(np.arange(len(dataset)))
    return [ids[: mask.sum()].tolist() for ids, mask in zip(found.input_ids, found.attention_mask, strict=True)]


@pytest.mark.slow
def test_both_token_sets_have_the_same_rows(trained: Path) -> None:
    tokens = trained / "data/tokens"
    own, kept = tokens / "student", np.load(tokens / "student/kept.npy").tolist()
    whole, trimmed = (Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json")) for folder in (tokens, own))
    trimmed.enable_truncation(MAX_LENGTH)
    assert kept == sorted(kept)
    assert len(kept) == trimmed.get_vocab_size() == MAX_TOKENS < whole.get_vocab_size()
    unchanged = 0
    for split in ("train", "dev", "test", "transfer"):
        texts = pq.read_table(trained / f"data/prepared/{split}.parquet").column("text").to_pylist()
        texts += dropped_words(whole, kept) if split == "transfer" else []
        theirs, ours = rows(tokens, split), rows(own, split)
        assert ours == [trimmed.encode(text).ids for text in texts]
        assert len(theirs) == len(ours) == len(texts)
        for before, after in zip(theirs, ours, strict=True):
            if set(before) <= set(kept):
                assert [kept[index] for index in after] == before
                unchanged += 1
            else:
                assert len(after) > len(before) or len(after) == MAX_LENGTH
    info, spelled = read_json(own / "info.json"), len(dropped_words(whole, kept))
    changed = info["vocabulary"]["changed"]
    assert spelled > 20
    assert (
        info["splits"]["transfer"]["rows"] == spelled == read_json(tokens / "info.json")["splits"]["transfer"]["rows"]
    )
    assert info["vocabulary"] | {"changed": None} == {
        "spelled": spelled,
        "rank": RANK,
        "tokens": MAX_TOKENS,
        "of": len(whole.get_vocab()),
        "changed": None,
    }
    assert 0 < changed["train"]["tokens"] < changed["train"]["rows"] < 1
    assert unchanged == sum(
        round((1 - changed[split]["rows"]) * part["rows"])
        for split, part in info["splits"].items()
        if split != "transfer"  # its shares are those of its own texts, and here it has none
    )


def test_the_teacher_has_answered_the_words_that_the_student_spells(trained: Path) -> None:
    """Each word is one token of the teacher's and several of the student's; a row that the store knows."""
    tokens = trained / "data/tokens"
    theirs, ours = (TokenDataset.open(folder / "transfer.arrow", 0) for folder in (tokens, tokens / "student"))
    assert set(theirs.lengths.tolist()) == {3}
    assert ours.lengths.min() > 3
    stored = StoredSignals.open(trained / "data/signals", theirs, trained / "data/teacher")
    rows = np.arange(len(theirs))
    answers = predict_logits(load_classifier(trained / "data/teacher"), theirs)
    assert np.allclose(stored(ours.batch(rows)).logits.numpy(), answers, atol=1e-5)


def test_words_are_not_spelled_where_params_say_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "w"))
    params = read_params(folder / "params.yaml")
    params["tokenize"]["vocabulary"]["spell"] = False
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    run_stages("tokenize", monkeypatch=monkeypatch, folder=folder)
    for info in (folder / "data/tokens/info.json", folder / "data/tokens/student/info.json"):
        assert read_json(info)["splits"]["transfer"]["rows"] == 0


def test_only_texts_to_learn_from_choose_the_vocabulary(trained: Path) -> None:
    """The most frequent tokens of train and transfer are kept, whatever dev and test have."""
    tokens = trained / "data/tokens"
    kept = set(np.load(tokens / "student/kept.npy").tolist())
    counts = np.bincount(np.concatenate([row for split in ("train", "transfer") for row in rows(tokens, split) if row]))
    vocabulary = Tokenizer.from_file(str(tokens / "tokenizer/tokenizer.json")).get_vocab()
    always = {index for token, index in vocabulary.items() if len(token.removeprefix("##")) == 1 or token[0] == "["}
    chosen, left = kept - always, {int(index) for index in np.flatnonzero(counts)} - kept
    assert min(counts[index] for index in chosen) >= max(counts[index] for index in left)


def test_the_student_and_its_control_have_it_and_the_teacher_does_not(trained: Path) -> None:
    assert load_classifier(trained / "data/teacher").config.vocab_size > MAX_TOKENS
    for name in ("distilled", "student", "control"):
        folder = trained / "data" / name
        table = load_classifier(folder).get_input_embeddings().weight
        assert int(torch.linalg.matrix_rank(table.detach(), rtol=1e-5)) == RANK
        assert load_classifier(folder).config.vocab_size == len(AutoTokenizer.from_pretrained(folder)) == MAX_TOKENS
    assert len(AutoTokenizer.from_pretrained(trained / "data/teacher")) > MAX_TOKENS


def test_what_is_served_answers_as_the_student_does(trained: Path) -> None:
    texts = pq.read_table(trained / "data/prepared/test.parquet").column("text").to_pylist()
    test = TokenDataset.open(trained / "data/tokens/student/test.arrow", 0)
    wanted = predict_logits(load_classifier(trained / "data/student"), test)
    served = Student(trained / "data/serving").logits(texts)
    assert read_json(trained / "data/serving/model.json")["variant"] in ("int8", "fp32")
    assert np.abs(served - wanted).max() < 0.1
    sizes = {
        part: onnx.load(trained / f"data/export/student.{part}.onnx").graph.initializer for part in ("fp32", "int8")
    }
    shapes = {part: {tuple(weight.dims) for weight in weights} for part, weights in sizes.items()}
    for found in shapes.values():
        assert {(MAX_TOKENS, RANK), (RANK, 32)} <= found
        assert (MAX_TOKENS, 32) not in found


def test_metrics_and_report_say_how_much_is_split_otherwise(trained: Path) -> None:
    metrics = read_json(trained / "reports/metrics.json")
    assert metrics["vocabulary"] == read_json(trained / "data/tokens/student/info.json")["vocabulary"]
    assert f"trimmed vocabulary: {MAX_TOKENS} of " in (trained / "reports/report.html").read_text(encoding="utf-8")
    parameters = {name: metrics["models"][name]["parameters"] for name in ("student", "int8", "control")}
    assert len(set(parameters.values())) == 1


def test_a_control_that_params_leave_out_is_nowhere(trained: Path) -> None:
    assert not list((trained / "data/initialised").glob("*.safetensors"))
    metrics = read_json(trained / "reports/metrics.json")
    assert "initialised" not in metrics["models"] | metrics["comparison"]["rivals"]
    assert list(metrics["proof"]["verdicts"]) == ["pretrained"]
    assert "Initialised" not in (trained / "reports/report.html").read_text(encoding="utf-8")


def test_the_same_bytes_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    before = {name: file_sums(trained / "data" / name) for name in ("tokens", "distilled")}
    said = run_stage("tokenize")
    assert f"from a vocabulary of {MAX_TOKENS} of " in said.summary
    assert said.metrics["vocabulary"] == MAX_TOKENS
    run_stage("distill")
    assert {name: file_sums(trained / "data" / name) for name in before} == before


@pytest.mark.slow
def test_a_limit_below_what_is_always_kept(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"max_length": 48, "vocabulary": {"max_tokens": 10}}
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, tokenize=plan)
    run_stages(*PREPARED[:-1], monkeypatch=monkeypatch, folder=folder)
    with pytest.raises(ModelError, match="max_tokens of the vocabulary is 10, but special tokens"):
        run_stage("tokenize")
    assert not (folder / "data/tokens").exists()


@pytest.mark.slow
def test_without_it_nothing_is_added(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base)
    run_stages(*PREPARED, monkeypatch=monkeypatch, folder=folder)
    assert not (folder / "data/tokens/student").exists()
    assert "vocabulary" not in json.dumps(read_json(folder / "data/tokens/info.json"))


# --- what a student is made of ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(slow: None, tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path) -> Path:
    """A workspace with a teacher and its signals."""
    folder = make_workspace(
        tmp_path_factory.mktemp("taught") / "w", tiny_rows, tiny_base, **QUICK, tokenize={"max_length": 48}
    )
    with pytest.MonkeyPatch.context() as patch:
        run_stages(*PREPARED, "teacher", "signals", monkeypatch=patch, folder=folder)
    return folder


def distilled(taught: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **distill: Any) -> Any:
    """Student and control of a copy of a workspace with another `distill`."""
    shutil.copytree(taught, folder)
    params = read_params(folder / "params.yaml")
    params["distill"] |= distill
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    run_stages("distill", "control", monkeypatch=monkeypatch, folder=folder)
    return [load_classifier(folder / "data" / name) for name in ("distilled", "control")]


@pytest.mark.slow
def test_a_distilbert(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in distilled(taught, tmp_path / "w", monkeypatch, student={"kind": "distilbert"}):
        assert type(model).__name__ == "DistilBertForSequenceClassification"
        assert (model.config.n_layers, model.config.dim, model.config.hidden_dim) == (2, 32, 64)


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [None, {"max_tokens": MAX_TOKENS}])
def test_a_static_student_through_the_pipeline(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, vocabulary: dict[str, int] | None
) -> None:
    quick = QUICK | {
        "distill": {"layers": [0], "student": {"kind": "static", "dimensions": 16}, "learning_rate": 0.01},
        "finetune": {"epochs": 0},
    }
    folder = make_workspace(
        tmp_path / "w", tiny_rows, tiny_base, **quick, tokenize={"max_length": 48, "vocabulary": vocabulary}
    )
    stages = [*PREPARED, "teacher", "signals", "distill", "finetune", "control", "export"]
    said = run_stages(*stages, monkeypatch=monkeypatch, folder=folder)
    assert "with a vector of 16 for each token" in said[stages.index("distill")].summary
    tokens = MAX_TOKENS if vocabulary else load_classifier(folder / "data/teacher").config.vocab_size
    for name in ("distilled", "student", "control"):
        assert load_classifier(folder / "data" / name).embeddings.weight.shape == (tokens, 16)
    before, after = (load_file(folder / "data" / name / "model.safetensors") for name in ("distilled", "student"))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())  # finetune.epochs is 0
    vectors = StaticModel.from_pretrained(folder / "data/student/model2vec")
    assert vectors.embedding.shape == (tokens, 16)
    assert Student(folder / "data/serving").predict(["a superb movie"])[0].label in ("negative", "positive")


@pytest.mark.slow
def test_a_student_at_random_of_another_size(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = {"kind": "config", "hidden_size": 24, "heads": 3, "intermediate_size": 20}
    found = distilled(taught, tmp_path / "w", monkeypatch, student=kind, layers=[0, 1, 2])
    for model in found:
        config = model.config
        assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 24, 3)
        assert (config.intermediate_size, config.id2label) == (20, {0: "negative", 1: "positive"})
    kind["heads"] = 5
    with pytest.raises(ModelError, match="5 attention heads, which do not divide its hidden size of 24"):
        distilled(taught, tmp_path / "other", monkeypatch, student=kind)


@pytest.mark.slow
def test_a_narrower_student(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    student, control = distilled(taught, tmp_path / "w", monkeypatch, prune={"ffn": 20, "rows": 50})
    said = [line for line in capsys.readouterr().out.splitlines() if "feed-forward units" in line]
    assert [line.split(":")[0] for line in said] == ["distill", "control"]
    for line in said:
        share = float(line.split("with ")[1].split("%")[0]) / 100
        assert 20 / 64 < share < 1  # more than as many by chance would have
        assert line.endswith("over 50 rows")
    assert student.config.intermediate_size == control.config.intermediate_size == 20
    with pytest.raises(ModelError, match=r"65 .*\(distill\.prune\.ffn\) were to stay, but the student has 64"):
        distilled(taught, tmp_path / "other", monkeypatch, prune={"ffn": 65})


@pytest.mark.slow
def test_a_student_of_fewer_states_and_heads(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    student, control = distilled(taught, tmp_path / "w", monkeypatch, prune={"ffn": 20, "width": 16, "rows": 50})
    said = capsys.readouterr().out
    assert "distill: 16 of 32 states stay, with " in said
    assert "distill: 1 of 2 attention heads of each layer stay, with " in said
    for model in (student, control):
        config = model.config
        assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (16, 1, 20)
    with pytest.raises(ModelError, match=r"distill\.prune\.width is 20, no multiple of the 16 states of an attention"):
        distilled(taught, tmp_path / "other", monkeypatch, prune={"width": 20})


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [None, {"max_tokens": 45}])
def test_a_checkpoint_with_a_tokenizer_of_its_own(
    tmp_path: Path,
    tiny_rows: Path,
    tiny_base: Path,
    other_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    vocabulary: dict[str, int] | None,
) -> None:
    quick = QUICK | {"distill": {"layers": [0, 2], "student": {"kind": "checkpoint"}, "terms": [{"kind": "pkd"}]}}
    folder = make_workspace(
        tmp_path / "w", tiny_rows, tiny_base, **quick,
        tokenize={"max_length": 60, "vocabulary": vocabulary},
        ingest={"student": {"kind": "file", "path": str(other_base)}},
    )  # fmt: skip
    said = run_stages(*PREPARED, "teacher", "signals", "distill", "control", monkeypatch=monkeypatch, folder=folder)
    assert "of the teacher and the student" in said[0].summary
    assert "the student has a tokenizer of its own" in said[3].summary
    tokens = folder / "data/tokens"
    size = Tokenizer.from_file(str(tokens / "student/tokenizer/tokenizer.json")).get_vocab_size()
    assert size == (60 if vocabulary is None else 45)
    assert [len(rows(tokens, split)) for split in ("train", "dev")] == [
        len(rows(tokens / "student", split)) for split in ("train", "dev")
    ]
    assert sum(map(len, rows(tokens / "student", "dev"))) > sum(map(len, rows(tokens, "dev")))
    for name in ("distilled", "control"):
        model = load_classifier(folder / "data" / name)
        assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.vocab_size) == (16, 2, size)
        assert len(AutoTokenizer.from_pretrained(folder / "data" / name)) == size
    assert load_classifier(folder / "data/teacher").config.hidden_size == 32


@pytest.mark.slow
def test_a_checkpoint_with_the_teachers_tokenizer_shares_its_tokens(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = QUICK | {"distill": {"layers": [1], "student": {"kind": "checkpoint"}, "terms": [{"kind": "hidden"}]}}
    folder = make_workspace(
        tmp_path / "w", tiny_rows, tiny_base, **quick,
        tokenize={"max_length": 48}, ingest={"student": {"kind": "file", "path": str(tiny_base)}},
    )  # fmt: skip
    run_stages(*PREPARED, "teacher", "signals", "distill", monkeypatch=monkeypatch, folder=folder)
    assert not (folder / "data/tokens/student").exists()
    assert not (folder / "data/tokens/whole").exists()
    assert load_classifier(folder / "data/distilled").config.num_hidden_layers == 1


@pytest.mark.slow
def test_a_checkpoint_of_pairs_has_the_segments_that_its_teacher_lacks(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=200, dim=8, n_heads=2, hidden_dim=8, n_layers=2, max_position_embeddings=64)
    teacher = tmp_path / "teacher"
    DistilBertModel(config).save_pretrained(teacher)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_base / name, teacher)
    pairs = [{"one": text, "other": text[::-1], "label": label} for text, label in generate_rows(120)]
    folder = make_workspace(
        tmp_path / "w", write_jsonl(tmp_path / "rows.jsonl", pairs), teacher,
        prepare={"text": ["one", "other"]}, distill={"student": {"kind": "checkpoint"}},
        ingest={"student": {"kind": "file", "path": str(tiny_base)}},
    )  # fmt: skip
    run_stages(*PREPARED, monkeypatch=monkeypatch, folder=folder)
    tokens = folder / "data/tokens"
    types = [read_json(place / "info.json")["token_types"] for place in (tokens, tokens / "student")]
    assert types == [False, True]


@pytest.mark.slow
def test_losses_by_token_are_refused_where_the_checkpoint_splits_otherwise(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, other_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = QUICK | {"distill": {"layers": [1], "student": {"kind": "checkpoint"}, "terms": [{"kind": "hidden"}]}}
    folder = make_workspace(
        tmp_path / "w", tiny_rows, tiny_base, **quick,
        tokenize={"max_length": 48}, ingest={"student": {"kind": "file", "path": str(other_base)}},
    )  # fmt: skip
    run_stages(*PREPARED, "teacher", "signals", monkeypatch=monkeypatch, folder=folder)
    with pytest.raises(ModelError, match="the loss term hidden compares token by token"):
        run_stage("distill")


@pytest.mark.slow
def test_a_folder_of_the_teacher_in_the_place_of_the_student(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, other_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_base, teacher)
    shutil.copytree(other_base, teacher / "student")
    folder = make_workspace(tmp_path / "alone", tiny_rows, teacher)
    run_stages(*PREPARED, monkeypatch=monkeypatch, folder=folder)
    assert not (folder / "data/tokens/student").exists()  # a stranger's folder is no student
    both = {"student": {"kind": "file", "path": str(other_base)}}
    folder = make_workspace(
        tmp_path / "both", tiny_rows, teacher, ingest=both, distill={"student": {"kind": "checkpoint"}}
    )
    with pytest.raises(ModelError, match="brings a folder student of its own; rename it"):
        run_stages("ingest", monkeypatch=monkeypatch, folder=folder)


# --- where it starts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trained", "taken"), [([0, 2], True), ([0, 1], False), (None, False)])
def test_a_general_student_of_other_layers_or_none_is_left_alone(
    tmp_path: Path, trained: list[int] | None, taken: bool
) -> None:
    write_manifest(tmp_path, {"layers": trained})
    params = parse_distill({"layers": [0, 2], "epochs": 1, "learning_rate": 1e-3})
    stage = Stage("distill", {"project": Project(name="p"), "distill": params}, {"general": tmp_path}, {})
    tokens = TokenFolder(tmp_path, {"task": "single_label", "labels": ["no", "yes"], "pair": False})
    assert student_builder(stage, tokens).general_dir == (tmp_path if taken else None)
    controls = replace(stage, deps={})
    assert student_builder(controls, tokens).general_dir is None
