from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.config.params_file import parse_distill
from potstill.data.tokens.batches import SPAN, TokenDataset
from potstill.distillation.teachers.predict import predict_signals
from potstill.distillation.teachers.providers import LiveTeacher
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.training.assistants import Teaching, through_assistants
from potstill.training.finished import copy_model, load_outcome, save, signals
from potstill.training.loop import Outcome, Setting
from tests.potstill.models.tiny import make

CPU = torch.device("cpu")


def rows(task: str, count: int = 12) -> TokenDataset:
    """Make rows of different lengths with labels of tokens."""
    random = np.random.default_rng(1)
    lengths = random.integers(4, 12, count)
    flat = random.integers(5, 50, lengths.sum()).astype(np.int32)
    labels: Any = np.zeros(count, dtype=SPAN)
    if task == "token_classification":
        labels = np.empty(count, dtype=object)
        for row, length in enumerate(lengths.tolist()):
            labels[row] = np.array([-100, *random.integers(0, 3, length - 2), -100])
    return TokenDataset(flat, lengths, None, labels, 0)


def test_signals_of_a_finished_model_are_restored(tmp_path: Path) -> None:
    model, told = make("bert"), np.arange(6, dtype=np.float32).reshape(3, 2)
    by_token = np.empty(2, dtype=object)
    by_token[0], by_token[1] = told, told[:1] + 7
    for number, said in enumerate((told, by_token)):
        save(tmp_path / str(number), model, Outcome(score=0.5), said)
        found = load_outcome(tmp_path / str(number))
        assert found is not None
        assert found.score == 0.5
        for one, other in zip(signals(tmp_path / str(number)), said, strict=True):
            np.testing.assert_array_equal(one, other)
        copy_model(tmp_path / str(number), tmp_path / "out", tmp_path)
        assert not list((tmp_path / "out").glob("*.npy"))


@pytest.mark.parametrize(
    ("task", "head"),
    [("token_classification", "ForTokenClassification"), ("question_answering", "ForQuestionAnswering")],
)
def test_an_assistant_teaches_by_token(task: str, head: str, tmp_path: Path) -> None:
    """Its saved signals of every token equal its live outputs."""
    more = {"num_labels": 3 if task == "token_classification" else 2}
    teacher, dataset = make("bert", head, **more), rows(task)
    params = parse_distill(
        {"layers": [0], "assistants": [[0, 2]], "epochs": 1, "learning_rate": 1e-3, "batch_tokens": 64}
    )
    setting = Setting("distill", params, 3, CPU, "fp32", tmp_path)
    start = Teaching(teacher, StoredSignals(predict_signals(teacher, dataset), np.arange(len(dataset))), params.layers)
    found = through_assistants(params, start, dataset, lambda _: 0.0, setting)
    assert found.model.config.num_hidden_layers == 2
    batch = dataset.batch(np.array([3, 0, 7]))
    told, live = found.source(batch).logits, LiveTeacher(found.model, CPU)(batch).logits
    real = batch.attention_mask == 1
    assert told.shape == live.shape
    torch.testing.assert_close(told[torch.from_numpy(real)], live[torch.from_numpy(real)], atol=1e-5, rtol=1e-4)
    assert (told[torch.from_numpy(~real)] == 0).all()
    again = through_assistants(params, start, dataset, lambda _: 1.0, setting)  # finished: not trained again
    torch.testing.assert_close(again.source(batch).logits, told)
