"""A student with a vocabulary of its own, through every stage that has to do with tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from potstill.artifacts import file_sums, read_json
from potstill.data.batches import TokenDataset
from potstill.errors import ModelError
from potstill.models.loading import load_classifier
from potstill.serving.runtime import Student
from potstill.training.predict import predict_logits
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages

PREPARED = ("ingest", "prepare", "validate", "tokenize")
LEARNED = ("teacher", "signals", "distill", "finetune", "control", "export", "evaluate")
# Every tiny run: one short epoch, on the CPU, in fp32.
QUICK: dict[str, dict[str, Any]] = {
    "project": {"device": "cpu", "precision": "fp32"},
    "evaluate": {"latency_texts": 10, "throughput_texts": 20, "rounds": 1, "bootstrap": 100},
    "distill": {"layers": [0, 2], "terms": [{"kind": "rkd"}]},
    "export": {"int8_fp32_products": 0},
}
MAX_TOKENS = 90


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path) -> Path:
    """A workspace with a trimmed student, all DVC stages run."""
    folder = make_workspace(
        tmp_path_factory.mktemp("trimmed") / "w", tiny_rows, tiny_base,
        **QUICK, tokenize={"max_length": 48, "vocabulary": {"max_tokens": MAX_TOKENS}},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        run_stages(*PREPARED, *LEARNED, monkeypatch=patch, folder=folder)
    return folder


def rows(tokens: Path, split: str) -> list[list[int]]:
    dataset = TokenDataset.open(tokens / f"{split}.arrow", 0)
    found = dataset.batch(np.arange(len(dataset)))
    return [ids[: mask.sum()].tolist() for ids, mask in zip(found.input_ids, found.attention_mask, strict=True)]


def test_both_token_sets_have_the_same_rows(trained: Path) -> None:
    tokens = trained / "data/tokens"
    own, kept = tokens / "student", np.load(tokens / "student/kept.npy").tolist()
    whole, trimmed = (Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json")) for folder in (tokens, own))
    assert kept == sorted(kept)
    assert len(kept) == trimmed.get_vocab_size() == MAX_TOKENS < whole.get_vocab_size()
    unchanged = 0
    for split in ("train", "dev", "test", "transfer"):
        texts = pq.read_table(trained / f"data/prepared/{split}.parquet").column("text").to_pylist()
        theirs, ours = rows(tokens, split), rows(own, split)
        assert ours == [trimmed.encode(text).ids for text in texts]
        assert len(theirs) == len(ours) == len(texts)
        for before, after in zip(theirs, ours, strict=True):
            if set(before) <= set(kept):
                assert [kept[index] for index in after] == before
                unchanged += 1
            else:
                assert len(after) > len(before)
    info = read_json(own / "info.json")
    changed = info["vocabulary"]["changed"]
    assert info["vocabulary"] | {"changed": None} == {
        "tokens": MAX_TOKENS,
        "of": len(whole.get_vocab()),
        "changed": None,
    }
    assert 0 < changed["train"]["tokens"] < changed["train"]["rows"] < 1
    assert unchanged == sum(
        round((1 - changed[split]["rows"]) * part["rows"]) for split, part in info["splits"].items()
    )


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
        assert load_classifier(folder).config.vocab_size == len(AutoTokenizer.from_pretrained(folder)) == MAX_TOKENS
    assert len(AutoTokenizer.from_pretrained(trained / "data/teacher")) > MAX_TOKENS


def test_what_is_served_answers_as_the_student_does(trained: Path) -> None:
    texts = pq.read_table(trained / "data/prepared/test.parquet").column("text").to_pylist()
    test = TokenDataset.open(trained / "data/tokens/student/test.arrow", 0)
    wanted = predict_logits(load_classifier(trained / "data/student"), test)
    served = Student(trained / "data/serving").logits(texts)
    assert read_json(trained / "data/serving/model.json")["variant"] in ("int8", "fp32")
    assert np.abs(served - wanted).max() < 0.05


def test_metrics_and_report_say_how_much_is_split_otherwise(trained: Path) -> None:
    metrics = read_json(trained / "reports/metrics.json")
    assert metrics["vocabulary"] == read_json(trained / "data/tokens/student/info.json")["vocabulary"]
    assert f"{MAX_TOKENS} of the teacher" in (trained / "reports/report.html").read_text(encoding="utf-8")
    parameters = {name: metrics["models"][name]["parameters"] for name in ("student", "int8", "control")}
    assert len(set(parameters.values())) == 1


def test_the_same_bytes_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    before = {name: file_sums(trained / "data" / name) for name in ("tokens", "distilled")}
    said = run_stage("tokenize")
    assert f"the student has {MAX_TOKENS} of the vocabulary's" in said.summary
    assert said.metrics["vocabulary"] == MAX_TOKENS
    run_stage("distill")
    assert {name: file_sums(trained / "data" / name) for name in before} == before


def test_a_limit_below_what_is_always_kept(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"max_length": 48, "vocabulary": {"max_tokens": 10}}
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, tokenize=plan)
    run_stages(*PREPARED[:-1], monkeypatch=monkeypatch, folder=folder)
    with pytest.raises(ModelError, match="max_tokens of the vocabulary is 10, but special tokens"):
        run_stage("tokenize")
    assert not (folder / "data/tokens").exists()


def test_without_it_nothing_is_added(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base)
    run_stages(*PREPARED, monkeypatch=monkeypatch, folder=folder)
    assert not (folder / "data/tokens/student").exists()
    assert "vocabulary" not in json.dumps(read_json(folder / "data/tokens/info.json"))
