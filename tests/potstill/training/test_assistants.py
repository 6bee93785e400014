from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.config.distill_params import Distill
from potstill.config.params_file import parse_distill
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.objective.composition import Blend, distillation
from potstill.distillation.teachers.predict import predict_logits
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import ModelError
from potstill.models.students.student import check_plan, student_from_layers
from potstill.training import assistants
from potstill.training.assistants import Teaching, relative_layers, through_assistants
from potstill.training.loop import Setting, train
from tests.potstill.models.tiny import make
from tests.scores import accuracy

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def rows(count: int, seed: int = 0) -> TokenDataset:
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 12, count)
    flat = random.integers(5, 50, lengths.sum()).astype(np.int32)
    return TokenDataset(flat, lengths, None, random.integers(-1, 3, count), 0)


ROWS, DEV = rows(96), rows(40, 1)


@pytest.fixture(scope="module")
def teacher() -> Any:
    torch.manual_seed(6)
    return make("bert", num_hidden_layers=8)


def plan(**changes: Any) -> Distill:
    values = {"layers": [0, 4], "assistants": [[0, 2, 3, 4, 6, 7], [0, 3, 4]], "epochs": 2, "learning_rate": 2e-3}
    return parse_distill(values | {"batch_tokens": 64, "checkpoint_seconds": 1e-6} | changes)


def setting(folder: Path, params: Distill) -> Setting:
    return Setting("distill", params, 11, CPU, "fp32", folder)


def score(found: Any) -> float:
    return accuracy(predict_logits(found, DEV), DEV.labels)


def climb(teacher: Any, folder: Path, params: Distill) -> Teaching:
    stored = StoredSignals(predict_logits(teacher, ROWS), np.arange(len(ROWS)))
    return through_assistants(params, Teaching(teacher, stored, params.layers), ROWS, score, setting(folder, params))


def weights(found: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in found.state_dict().items()}


def test_layers_are_counted_in_the_model_before() -> None:
    assert relative_layers([[0, 2, 3, 4, 6, 7], [0, 3, 4]], [0, 4]) == [[0, 2, 3, 4, 6, 7], [0, 2, 3], [0, 2]]
    assert relative_layers([], [1, 3]) == [[1, 3]]


def test_each_assistant_learns_from_the_one_before(tmp_path: Path, teacher: Any) -> None:
    """The chain by hand: one distillation after the other, with the logits of the one before."""
    params = plan()
    model = teacher
    for number, layers in enumerate([[0, 2, 3, 4, 6, 7], [0, 2, 3]]):
        stored = StoredSignals(predict_logits(model, ROWS), np.arange(len(ROWS)))
        student = student_from_layers(model, layers)
        goal = distillation(params, student, model, stored, device=CPU, precision="fp32", seed=11)
        train(student, ROWS, goal, score, setting(tmp_path / f"by-hand-{number}", params))
        model = student
    found = climb(teacher, tmp_path / "chain", params)
    assert found.layers == [0, 2]
    wanted = weights(model)
    assert list(wanted) == list(weights(found.model))
    assert all(torch.equal(value, wanted[name]) for name, value in weights(found.model).items())
    part = ROWS.batch(np.array([5, 1, 8]))
    assert found.source(part).logits.numpy() == pytest.approx(predict_logits(model, ROWS)[part.rows], abs=1e-6)
    assert [outcome.score for outcome in found.outcomes] == [max(outcome.scores) for outcome in found.outcomes]
    assert {name.split("_", 2)[2] for _, name, _ in found.history} == {"loss", "loss_kl", "loss_ce", "dev"}
    assert {name[:11] for _, name, _ in found.history} == {"assistant_1", "assistant_2"}


class Stop(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize("cut", [5, 40])
def test_interrupted_and_resumed_equals_straight_through_to_the_bit(
    tmp_path: Path, teacher: Any, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Cut in the first assistant, or in the second: then the first is not trained again."""
    params = plan(average_decay=0.9, terms=[{"kind": "hidden", "weight": 0.1}])
    wanted = climb(teacher, tmp_path / "straight", params)
    calls = 0
    whole = Blend.__call__

    def short(blend: Blend, both: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise Stop
        return whole(blend, both)

    monkeypatch.setattr(Blend, "__call__", short)
    with pytest.raises(Stop):
        climb(teacher, tmp_path / "cut", params)
    monkeypatch.undo()
    done = sorted(path.parent.name for path in (tmp_path / "cut").glob("*/finished"))
    assert done == ([] if cut == 5 else ["assistant-1"])
    trained: list[Any] = []
    monkeypatch.setattr(assistants, "train", lambda *args: trained.append(args[0]) or train(*args))
    torch.manual_seed(999)
    found = climb(teacher, tmp_path / "cut", params)
    assert len(trained) == (2 if cut == 5 else 1)
    assert found.history == wanted.history
    other = weights(wanted.model)
    assert all(torch.equal(value, other[name]) for name, value in weights(found.model).items())


def test_an_assistants_scores_are_not_told_as_the_students(tmp_path: Path, teacher: Any) -> None:
    params, told = plan(assistants=[[0, 4, 6]], epochs=1), []
    watched = replace(setting(tmp_path, params), watch=told.append)
    stored = StoredSignals(predict_logits(teacher, ROWS), np.arange(len(ROWS)))
    found = through_assistants(params, Teaching(teacher, stored, params.layers), ROWS, score, watched)
    assert found.outcomes[0].scores
    assert told == []


def test_a_damaged_assistant_is_trained_again(tmp_path: Path, teacher: Any, capsys: pytest.CaptureFixture[str]) -> None:
    params = plan(assistants=[[0, 4, 6]], epochs=1)
    wanted = weights(climb(teacher, tmp_path, params).model)  # copies: the file is mapped
    file = tmp_path / "assistant-1" / "finished" / "model.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(bytes(damaged))
    found = climb(teacher, tmp_path, params)
    assert "finished model skipped" in capsys.readouterr().out
    assert all(torch.equal(value, wanted[name]) for name, value in weights(found.model).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assistants": [[0, 4, 9]]}, r"distill\.assistants names layer 9, but the teacher in memory has 8 layers"),
        ({"assistants": [], "layers": [8]}, r"distill\.layers names layer 8"),
        ({"assistants": [], "mutual": {"students": [[0, 4], [1, 12]]}}, r"distill\.mutual\.students names layer 12"),
    ],
)
def test_layers_that_do_not_exist_are_refused_before_anything_is_trained(
    teacher: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check_plan(plan(**changes), teacher)


def test_a_batch_of_the_kept_signals_is_mapped_not_read(tmp_path: Path, teacher: Any) -> None:
    from potstill.training import finished

    climb(teacher, tmp_path, plan(assistants=[[0, 4, 6]], epochs=1))
    kept = finished.signals(tmp_path / "assistant-1" / "finished")
    assert isinstance(kept, np.memmap)
    assert kept.shape == (len(ROWS), 3)
