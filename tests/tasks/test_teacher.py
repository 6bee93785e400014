"""Several teachers through the stages: seeds, and a fine-tuned one with its own tokenizer and order of labels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.artifacts import file_sums, read_json, verify
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.teachers.mean_answers import pooled
from potstill.distillation.teachers.predict import predict_logits
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import LabelCountError, ModelError
from potstill.models.loading import load_classifier
from potstill.pretrained.members import read_members
from potstill.scores.calibration import fit_temperature
from tasks import teacher as stage_module
from tests.conftest import BAD, GLUE, GOOD, NEUTRAL, generate_rows
from tests.scores import accuracy
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages
from tests.teachers import teach

WORDS = [*GOOD, *BAD, *NEUTRAL, *GLUE]
BEFORE = ("ingest", "prepare", "validate", "tokenize")
PLAN = {"epochs": 2, "learning_rate": 5e-3, "batch_tokens": 256, "average_decay": 0.9, "checkpoint_seconds": 1e-6}


def save_other(folder: Path, labels: list[str], steps: int = 0) -> Path:
    """A fine-tuned DistilBERT whose tokens are whole words; its first label is of praise."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", "<pad>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    torch.manual_seed(8)
    config = DistilBertConfig(
        vocab_size=len(vocabulary), dim=24, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64,
        pad_token_id=3, id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)},
    )  # fmt: skip
    model = DistilBertForSequenceClassification(config)
    rows = generate_rows(200, seed=2)
    teach(model, fast, [text for text, _ in rows], [int(label == "negative") for _, label in rows], steps)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_other(tmp_path_factory.mktemp("other"), ["Positive", "Negative"], steps=60)


def workspace(folder: Path, rows: Path, base: Path, other: Path | None = None, **teacher: Any) -> Path:
    more = {} if other is None else {"teachers": {"letters": {"kind": "file", "path": str(other)}}}
    members = {} if other is None else {"members": {"letters": {"fine_tuned": True, "weight": 2.0}}}
    plan = {"epochs": 1, "batch_tokens": 256, "checkpoint_seconds": 1e-6}
    return make_workspace(
        folder, rows, base, ingest=more, teacher=PLAN | members | teacher, distill=plan | {"layers": [0, 2]},
        project={"precision": "fp32"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    slow: None, tiny_rows: Path, tiny_base: Path, other: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace whose two seeds and one further teacher have given their signals."""
    folder = workspace(tmp_path_factory.mktemp("several") / "w", tiny_rows, tiny_base, other, seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        run_stages(*BEFORE, "teacher", "signals", monkeypatch=patch, folder=folder)
    return folder


def members_on(folder: Path, split: str) -> np.ndarray:
    """[rows, members, classes] logits, each member on its own tokens."""
    found = []
    for member in read_members(folder / "data" / "teacher"):
        tokens = folder / "data" / "tokens" / member.tokens
        rows = TokenDataset.open(tokens / f"{split}.arrow", read_json(tokens / "info.json")["pad_token_id"])
        found.append(predict_logits(load_classifier(member.folder), rows))
    return np.stack(found, axis=1)


@pytest.mark.slow
def test_the_first_model_is_the_teachers_folder_and_the_others_lie_below(finished: Path) -> None:
    teacher = finished / "data" / "teacher"
    members = read_members(teacher)
    assert [member.folder for member in members] == [teacher, teacher / "members/1", teacher / "members/2"]
    assert [member.weight for member in members] == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert [member.tokens for member in members] == [".", ".", "members/letters"]
    models = [load_classifier(member.folder) for member in members]
    assert [model.config.model_type for model in models] == ["bert", "bert", "distilbert"]
    one, two = (model.classifier.weight for model in models[:2])
    assert not torch.equal(one, two)  # other seeds
    for member in members:
        assert (member.folder / "tokenizer.json").exists()


def test_a_teacher_with_another_tokenizer_gets_its_own_ids_of_the_same_rows(finished: Path) -> None:
    tokens = finished / "data" / "tokens"
    about, own = read_json(tokens / "info.json"), read_json(tokens / "members" / "letters" / "info.json")
    assert own["pad_token_id"] == 3
    for split, counts in about["splits"].items():
        assert own["splits"][split]["rows"] == counts["rows"]
        ids = [(where / f"{split}.arrow").read_bytes() for where in (tokens, tokens / "members" / "letters")]
        assert (ids[0] != ids[1]) == bool(counts["rows"])
    assert (tokens / "members/letters/tokenizer/tokenizer.json").exists()


def test_signals_hold_every_members_logits_in_the_order_of_our_labels(finished: Path) -> None:
    tokens = finished / "data" / "tokens"
    rows = TokenDataset.concatenate(
        [TokenDataset.open(tokens / f"{split}.arrow", 0) for split in ("train", "transfer")]
    )
    stored = StoredSignals.open(finished / "data" / "signals", rows, finished / "data" / "teacher")
    found = stored(rows.batch(np.arange(len(rows)))).logits.numpy()
    expected = np.concatenate([members_on(finished, split) for split in ("train", "transfer")])
    assert found.shape == (len(rows), 3, 2)
    assert found == pytest.approx(expected, abs=1e-4)
    # The folder said Positive, Negative.
    assert (found[:, 2].argmax(axis=1) == rows.labels).mean() > 0.9


def test_the_temperature_is_the_ensembles(finished: Path) -> None:
    teacher, tokens = finished / "data" / "teacher", finished / "data" / "tokens"
    labels = TokenDataset.open(tokens / "dev.arrow", 0).labels
    members = [*members_on(finished, "dev").swapaxes(0, 1)]
    logits = pooled(members, [member.weight for member in read_members(teacher)], "single_label")
    assert read_json(teacher / "calibration.json")["temperature"] == pytest.approx(fit_temperature(logits, labels))
    assert verify(teacher)["dev_accuracy"] == accuracy(logits, labels)


def test_a_student_learns_from_all_of_them(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    result = run_stage("distill")
    assert {"loss_kl", "loss_ce"} <= {name for _, name, _ in result.history}
    assert load_classifier(finished / "data" / "distilled").config.num_hidden_layers == 2
    assert "0.9 * T^2 * KL(T=1)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_cut_short_in_the_second_seed_goes_on_there(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        """A power cut."""

    folder = workspace(tmp_path / "w", tiny_rows, tiny_base, seeds=2)
    run_stages(*BEFORE, "teacher", monkeypatch=monkeypatch, folder=folder)
    expected = file_sums(folder / "data" / "teacher")
    shutil.rmtree(folder / ".work")
    shutil.rmtree(folder / "data" / "teacher")
    trained = []
    whole = stage_module.train

    def cut(*args: Any) -> Any:
        trained.append(args[-1].seed)
        if len(trained) == 2:
            raise Stop
        return whole(*args)

    monkeypatch.setattr(stage_module, "train", cut)
    with pytest.raises(Stop):
        run_stage("teacher")
    assert not (folder / "data" / "teacher").exists()
    run_stage("teacher")
    assert trained == [17, 18, 18]  # the first is not trained again
    assert file_sums(folder / "data" / "teacher") == expected


@pytest.mark.slow
def test_a_teacher_of_one_has_no_list_of_members(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace(tmp_path / "w", tiny_rows, tiny_base)
    result = run_stages(*BEFORE, "teacher", monkeypatch=monkeypatch, folder=folder)[-1]
    files = set(file_sums(folder / "data" / "teacher"))
    assert {"calibration.json", "config.json", "manifest.json", "model.safetensors", "tokenizer.json"} <= files
    assert not [name for name in files if "member" in name]
    assert set(result.metrics) == {"dev_accuracy", "rows_seen", "steps", "temperature"}
    assert not (folder / "data" / "tokens" / "members").exists()


@pytest.mark.slow
@pytest.mark.parametrize("labels", [["good", "bad"], ["positive", "negative", "neutral"]])
def test_members_that_disagree_on_the_labels_are_refused_before_anything_is_trained(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, labels: list[str]
) -> None:
    folder = workspace(tmp_path / "w", tiny_rows, tiny_base, save_other(tmp_path / "other", labels), seeds=2)
    run_stages(*BEFORE, monkeypatch=monkeypatch, folder=folder)
    monkeypatch.setattr(stage_module, "train", lambda *_: pytest.fail("it trained"))
    with pytest.raises(LabelCountError, match=r"the teacher in data/base/members/letters "):
        run_stage("teacher")


@pytest.mark.slow
def test_lora_on_the_teacher_leaves_a_plain_folder(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace(tmp_path / "w", tiny_rows, tiny_base, lora={"rank": 2, "targets": ["query", "ffn_in"]})
    run_stages(*BEFORE, "teacher", monkeypatch=monkeypatch, folder=folder)
    teacher, base = (load_classifier(folder / "data" / name, labels) for name, labels in (
        ("teacher", None), ("base", ["negative", "positive"]),
    ))  # fmt: skip
    ours, theirs = teacher.bert.state_dict(), base.bert.state_dict()
    changed = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
    assert changed == {
        f"encoder.layer.{n}.{part}.weight" for n in range(4) for part in ("attention.self.query", "intermediate.dense")
    } | {"pooler.dense.weight", "pooler.dense.bias"}
    assert not [name for name in file_sums(folder / "data" / "teacher") if "adapter" in name]


@pytest.mark.slow
def test_lora_on_what_a_class_does_not_have_is_refused(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace(tmp_path / "w", tiny_rows, tiny_base, lora={"targets": ["qkv"]})
    run_stages(*BEFORE, monkeypatch=monkeypatch, folder=folder)
    with pytest.raises(ModelError, match=r"teacher\.lora\.targets names qkv, which layers of a bert do not have"):
        run_stage("teacher")
