"""What is not of one task alone: the search, the probe, several teachers, students that teach each other, the proof."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from potstill.artifacts import read_json, verify
from potstill.config.params_file import load_params
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import ModelError, ParamsError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.studies.layer_probe import Probed
from tasks.probe import probe
from tasks.search import search
from tests.marked import question_rows, tagged_rows, write_jsonl
from tests.tasks.data_workspace import make_workspace, run_stages

pytestmark = pytest.mark.slow

QUICK = {"epochs": 1, "batch_tokens": 512, "average_decay": None, "learning_rate": 0.003}
WORDS = "house movie story plot camera scene script music train window letter morning evening".split()  # noqa: SIM905


def _text(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(4, 9)))


def _numbers(count: int) -> list[dict[str, Any]]:
    generator = random.Random(1)
    texts = {_text(generator) for _ in range(count)}
    return [{"text": text, "stars": text.count("o") - 4.0} for text in sorted(texts)]


def _several(count: int) -> list[dict[str, Any]]:
    labels = {"vowels": "ou", "places": "indow"}
    rows = _numbers(count)
    return [
        {"text": row["text"], "labels": [name for name, part in labels.items() if part in row["text"]]} for row in rows
    ]


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "multi_label": (_several(160), {"label": {"kind": "column", "column": "labels"}}),
    "regression": (_numbers(160), {"label": {"kind": "number", "column": "stars"}}),
    "token_classification": (
        tagged_rows(160), {"text": "tokens", "label": {"kind": "tags", "column": "tags"}},
    ),
    "question_answering": (
        question_rows(120, words=20),
        {"text": ["question", "context"], "label": {"kind": "answers"}, "near_duplicate": None},
    ),
}  # fmt: skip
PLACES = ("token_classification", "question_answering")
GATE = {
    "min_accuracy": None, "min_macro_f1": None, "max_ece": None, "min_speedup": None, "min_teacher_ratio": None,
    "min_advantage": None, "min_gain_over_control_upper": None, "min_score": -1.0, "max_file_mb": 1.0,
}  # fmt: skip


def _workspace(folder: Path, task: str, base: Path, **sections: Any) -> Path:
    rows, prepare = CASES[task]
    classless = {"min_per_class": None, "max_class_share": None} if task in ("regression", "question_answering") else {}
    settings: dict[str, Any] = {
        "project": {"precision": "fp32", "device": "cpu"},
        "prepare": {"task": task, "augment": None, "labels": None} | prepare,
        "validate": {"min_rows": {"train": 50, "dev": 5, "test": 10, "transfer": 0}} | classless,
        "tokenize": {"max_length": 24},
        "teacher": QUICK, "distill": QUICK | {"layers": [0, 2], "transfer": True}, "finetune": QUICK, "control": QUICK,
        "export": {"int8_min_agreement": 0.0, "int8_max_accuracy_drop": 1.0, "max_parity_difference": 0.01},
        "evaluate": {"latency_texts": 10, "throughput_texts": 10, "rounds": 1, "bootstrap": 100},
        "gate": GATE,
        "search": {"trials": 1, "pruner": "none", "evaluations_per_epoch": 1, "layers": [[1]],
                   "static": {"dimensions": [8], "epochs": 1, "learning_rate": 0.01, "batch_tokens": 512}},
    }  # fmt: skip
    for name, values in sections.items():
        settings[name] = settings.get(name, {}) | values
    return make_workspace(folder / "w", write_jsonl(folder / "rows.jsonl", rows), base, **settings)


UP_TO_SIGNALS = ("ingest", "prepare", "validate", "tokenize", "teacher", "signals", "general")
TO_THE_END = ("distill", "finetune", "control", "proof", "export", "evaluate")


def check_search_and_probe(task: Any, output: Callable[[], str]) -> None:
    """Search and probe in the workspace that is the current folder."""
    params, scoring = load_params(Path("params.yaml")), KINDS[task].scoring
    params = params.model_copy(update={"distill": params.distill.model_copy(update={"mutual": None})})
    found = search(params)
    assert [point.kind for point in found.points] == [
        "teacher",
        "teacher",
        *([] if task in PLACES else ["tfidf"]),
        "layers",
        *([] if task in PLACES else ["static"]),
    ]
    facts = read_json(Path("reports/search/facts.json"))
    assert facts["score"] == scoring.key
    for point in found.points:
        assert point.score == point.numbers[scoring.key]
        assert np.isfinite(point.score)
    assert found.cheapest is not None
    assert found.cheapest.verdict is not None
    assert {"min_score", "max_file_mb"} <= {check.name for check in found.cheapest.verdict.checks}
    (trial,) = found.trials
    (built,) = (point for point in found.points if point.kind == "layers")
    assert trial.score == verify(Path(built.folder or "").parent / "distilled")[scoring.dev_key]
    lines = output()
    # DIST is of classes, tokens' among them.
    assert ("search: without 'kl and dist'" in lines) == (task != "token_classification")
    assert ("search: no static student: it labels whole texts" in lines) == (task in PLACES)
    assert scoring.words in Path("reports/search/index.html").read_text(encoding="utf-8")
    probed: list[Probed] = []
    (one,) = probe(params, [[0, 1, 2, 3]], 60, probed.append)
    assert probed == [one]
    assert one.agreement <= 1
    assert one.distance >= 0
    assert np.isfinite(one.score)


@pytest.mark.parametrize("task", ["regression", "multi_label"])
def test_other_answers_than_classes_are_searched_and_probed_by_their_own_score(
    task: str, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _workspace(tmp_path, task, tiny_base)
    run_stages(*UP_TO_SIGNALS, monkeypatch=monkeypatch, folder=folder)
    check_search_and_probe(task, lambda: capsys.readouterr().out)


def test_a_search_without_a_loss_of_the_task_is_refused(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _workspace(tmp_path, "regression", tiny_base, search={"losses": {"ranks": [{"kind": "dist"}]}})
    monkeypatch.chdir(folder)
    with pytest.raises(
        ParamsError, match=r"search\.losses has none for a regression task: the loss term dist needs probabilities"
    ):
        search(load_params(Path("params.yaml")))


@pytest.mark.parametrize("task", PLACES)
def test_teachers_and_students_of_places_are_several(
    task: Any, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _workspace(
        tmp_path, task, tiny_base,
        teacher={"seeds": 2}, proof={"seeds": 2}, distill={"mutual": {"students": [[0, 2], [1]]}},
        evaluate={"slices": {"min_rows": 2}, "abstention": {} if task == "token_classification" else None},
    )  # fmt: skip
    run_stages(*UP_TO_SIGNALS, *TO_THE_END, monkeypatch=monkeypatch, folder=folder)
    data, width = folder / "data", 5 if task == "token_classification" else 2
    train = TokenDataset.open(data / "tokens/train.arrow", 0)
    stored = StoredSignals.open(data / "signals", train, data / "teacher")
    batch = train.batch(np.arange(3))
    assert stored(batch).logits.shape == (*batch.input_ids.shape, 2, width)
    metrics, scoring = read_json(folder / "reports/metrics.json"), KINDS[task].scoring
    assert metrics["models"]["teacher"]["members"] == 2
    assert metrics["quantized_teacher"]["members"] == 2
    assert 0 <= metrics["models"]["teacher_int8"][scoring.key] <= 1
    assert metrics["comparison"]["teacher_int8"]["smaller"] > 1
    proof = metrics["proof"]
    assert len(proof["seeds"]) == 2
    for model in proof["models"].values():
        assert len(model[scoring.key]) == len(model["agreement"]) == 2
    first = proof["models"]["student"][scoring.key][0]
    assert first == pytest.approx(metrics["models"]["int8" if metrics["shipped"] == "int8" else "student"][scoring.key])
    assert any(test["models"]["teacher"]["rows"] for test in metrics["behaviour"]["tests"].values())
    assert any(part["name"].startswith("label = ") for part in metrics["slices"]["slices"])
    assert ("abstention" in metrics) == (task == "token_classification")
    check_search_and_probe(task, lambda: capsys.readouterr().out)


def test_a_further_teacher_of_places_needs_the_same_tokenizer(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    path = other / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"lowercase": true', '"lowercase": false').replace(
        '"lowercase":true', '"lowercase":false'), encoding="utf-8")  # fmt: skip
    folder = _workspace(tmp_path, "token_classification", tiny_base, teacher={"members": {"second": {}}})
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["ingest"]["teachers"] = {"second": {"kind": "file", "path": str(other)}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.raises(ModelError, match=r"ingest\.teachers\.second has another tokenizer than ingest\.teacher"):
        run_stages("ingest", "prepare", "validate", "tokenize", monkeypatch=monkeypatch, folder=folder)


def test_entities_of_a_student_with_a_smaller_vocabulary(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _workspace(
        tmp_path, "token_classification", tiny_base,
        tokenize={"max_length": 12, "vocabulary": {"max_tokens": 70}}, teacher={"seeds": 2},
        distill={"prune": {"ffn": 40, "rows": 20}},
    )  # fmt: skip
    run_stages(*UP_TO_SIGNALS, *TO_THE_END, monkeypatch=monkeypatch, folder=folder)
    tokens, metrics = folder / "data/tokens", read_json(folder / "reports/metrics.json")
    mine, theirs = (TokenDataset.open(place / "test.arrow", 0) for place in (tokens / "student", tokens))
    assert int(mine.lengths.sum()) > int(theirs.lengths.sum())  # words are split into more tokens
    assert metrics["models"]["teacher"]["parameters"] > metrics["models"]["student"]["parameters"]
    for model in metrics["models"].values():
        assert 0 <= model["f1"] <= 1
        assert np.isfinite(model["ece"])
    assert 0 <= metrics["comparison"]["agreement"] <= 1
    assert metrics["comparison"]["kl"] >= 0
    params = load_params(Path("params.yaml"))
    with pytest.raises(ModelError, match="splits texts otherwise than its teacher, so their answers about tokens"):
        probe(params, [[0]], 60, lambda _: None)


def _own_checkpoint(base: Path) -> dict[str, Any]:
    return {
        "ingest": {"student": {"kind": "file", "path": str(base)}},
        "distill": {"student": {"kind": "checkpoint"}},
    }


def test_entities_of_a_checkpoint_with_a_tokenizer_of_its_own(
    tmp_path: Path, tiny_base: Path, other_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _workspace(tmp_path, "token_classification", tiny_base, **_own_checkpoint(other_base))
    output = run_stages(*UP_TO_SIGNALS, "distill", "control", monkeypatch=monkeypatch, folder=folder)
    assert "layers [0, 2] of the checkpoint" in output[-2].summary
    for name in ("distilled", "control"):
        model = load_classifier(folder / "data" / name)
        assert (model.config.hidden_size, len(model.config.id2label)) == (16, 5)


def test_answers_of_a_student_with_tokens_of_its_own(
    tmp_path: Path, tiny_base: Path, other_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint with a trimmed vocabulary learns from two teachers' answers; each model is judged in its windows."""
    folder = _workspace(
        tmp_path, "question_answering", tiny_base, teacher={"seeds": 2},
        tokenize={"max_length": 24, "vocabulary": {"max_tokens": 45}}, **_own_checkpoint(other_base),
    )  # fmt: skip
    run_stages(*UP_TO_SIGNALS, *TO_THE_END, monkeypatch=monkeypatch, folder=folder)
    tokens, metrics = folder / "data/tokens", read_json(folder / "reports/metrics.json")
    mine, theirs = (TokenDataset.open(place / "test.arrow", 0) for place in (tokens / "student", tokens))
    assert len(mine) > len(theirs)
    assert load_classifier(folder / "data/student").config.vocab_size == 45
    for model in metrics["models"].values():
        assert 0 <= model["f1"] <= 1
    assert 0 <= metrics["comparison"]["agreement"] <= 1
    output = pq.read_table(folder / "data/evaluation/predictions.parquet")
    contexts = pq.read_table(folder / "data/prepared/test.parquet").column("text_pair").to_pylist()
    for model in ("teacher", "student", "int8"):
        for answer, context in zip(output.column(model).to_pylist(), contexts, strict=True):
            assert answer in context
