from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from potstill.artifacts import read_json, verify, write_json
from potstill.compute.precision import choose_device, choose_precision
from potstill.config.training_params import Training
from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised, Terms
from potstill.distillation.teachers.outputs import Outputs
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import TrainingError
from potstill.models.loading import load_classifier
from potstill.training.checkpoints import newest
from potstill.training.loop import Outcome, Setting, train
from tests.scores import accuracy

CPU = torch.device("cpu")


def rows(count: int, seed: int) -> TokenDataset:
    """Label 1 where token 7 is in the row: a rule that a tiny model learns."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 12, count)
    flat = random.integers(10, 60, lengths.sum()).astype(np.int32)
    labels = random.integers(0, 2, count)
    ends = np.cumsum(lengths)
    flat[ends[labels == 1] - 2] = 7
    return TokenDataset(flat, lengths, None, labels, 0)


TRAIN, DEV = rows(400, 0), rows(100, 1)


def model(base: Path) -> torch.nn.Module:
    torch.manual_seed(5)
    return load_classifier(base, ["no", "yes"])


# Written at every step, checkpoints take several times as long as the training.
EVERY_STEP = {"checkpoint_seconds": 1e-6}


def setting(folder: Path, *, keep_start: bool = False, **changes: object) -> Setting:
    plan = {"epochs": 4, "learning_rate": 3e-3, "batch_tokens": 128, "checkpoint_seconds": 1e6} | changes
    return Setting("distill", Training(**plan), 11, CPU, "fp32", folder, keep_start)


def score(found: torch.nn.Module) -> float:
    return accuracy(predict_logits(found, DEV), DEV.labels)


def weights(found: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in found.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "warned"), [(1, True), (6, False)])
def test_a_plan_of_few_steps_gives_a_warning(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], epochs: int, warned: bool
) -> None:
    few = setting(tmp_path, epochs=epochs, batch_tokens=200)
    outcome = train(model(tiny_base), TRAIN, Supervised(), score, few)
    said = f"distill makes only {outcome.steps} optimiser steps of 400 rows"
    assert (said in capsys.readouterr().out) is warned


@pytest.mark.slow
def test_a_model_learns_and_ends_with_the_best_weights(tmp_path: Path, tiny_base: Path) -> None:
    student = model(tiny_base)
    outcome = train(student, TRAIN, Supervised(), score, setting(tmp_path))
    assert outcome.score > 0.9
    assert outcome.score == max(outcome.scores) == score(student)
    assert outcome.rows == 4 * len(TRAIN)
    assert {name for _, name, _ in outcome.history} == {"loss", "loss_ce", "dev"}
    steps = [step for step, name, _ in outcome.history if name == "loss_ce"]
    assert steps == list(range(1, len(steps) + 1))  # every step, each once
    assert len(steps) > 4 * outcome.rows / len(TRAIN)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(tmp_path: Path, tiny_base: Path) -> None:
    first, second = model(tiny_base), model(tiny_base)
    train(first, TRAIN, Supervised(), score, setting(tmp_path / "a", epochs=1))
    train(second, TRAIN, Supervised(), score, setting(tmp_path / "b", epochs=1))
    other = weights(second)
    assert all(torch.equal(value, other[name]) for name, value in weights(first).items())


class Stop(Exception):
    """Stands for a power cut."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cut", "plan"),
    [
        (3, {}),
        (31, {}),
        (90, {}),
        (31, {"average_decay": 0.9}),
        (31, {"average_decay": 0.9, "freeze_embeddings": True}),
    ],
)
def test_interrupted_and_resumed_equals_straight_through_to_the_bit(
    tmp_path: Path, tiny_base: Path, cut: int, plan: dict[str, float]
) -> None:
    straight = model(tiny_base)
    wanted = train(straight, TRAIN, Supervised(), score, setting(tmp_path / "straight", **plan))

    class CutShort(Supervised):
        def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
            if step.index == cut - 1:
                raise Stop
            return super().forward(outputs, batch, step)

    with pytest.raises(Stop):
        train(model(tiny_base), TRAIN, CutShort(), score, setting(tmp_path / "cut", **plan, **EVERY_STEP))
    resumed = model(tiny_base)
    torch.manual_seed(999)  # whatever the process did before
    seen: list[float] = []
    watched = replace(setting(tmp_path / "cut", **plan), watch=seen.append)
    found = train(resumed, TRAIN, Supervised(), score, watched)
    assert found.resumed_at == cut - 1
    assert (found.scores, found.rows, found.history) == (wanted.scores, wanted.rows, wanted.history)
    assert seen == wanted.scores  # also those before the interruption
    other = weights(straight)
    assert all(torch.equal(value, other[name]) for name, value in weights(resumed).items())


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def test_a_run_resumes_on_every_device(tmp_path: Path, tiny_base: Path, device: str) -> None:
    plan = replace(setting(tmp_path, epochs=1, **EVERY_STEP), device=torch.device(device))
    straight = train(model(tiny_base), TRAIN, Supervised(), score, plan)
    resumed = train(model(tiny_base), TRAIN, Supervised(), score, plan)
    assert resumed.resumed_at == straight.steps - 1
    assert resumed.scores == pytest.approx(straight.scores, abs=0.05)


@pytest.mark.slow
def test_a_checkpoint_of_another_precision_is_not_resumed(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = setting(tmp_path, epochs=1, **EVERY_STEP)
    longer = replace(setting(tmp_path, epochs=2, **EVERY_STEP), precision="bf16")
    train(model(tiny_base), TRAIN, Supervised(), score, longer)
    straight, found = model(tiny_base), model(tiny_base)
    train(straight, TRAIN, Supervised(), score, setting(tmp_path / "straight", epochs=1))
    outcome = train(found, TRAIN, Supervised(), score, plan)
    assert outcome.resumed_at == 0
    assert "is of another run (precision bf16, now fp32)" in capsys.readouterr().out
    # Those of the longer run before are gone: the one that was written now is the newest.
    checkpoint = newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint[1]["precision"] == "fp32"
    wanted = weights(straight)
    assert all(torch.equal(value, wanted[name]) for name, value in weights(found).items())


@pytest.mark.slow
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(model(tiny_base), TRAIN, Supervised(), score, setting(tmp_path, epochs=1, **EVERY_STEP))
    kept = sorted(tmp_path.glob("step-*"))
    assert len(kept) == 2
    weights_file = kept[-1] / "model.safetensors"
    damaged = bytearray(weights_file.read_bytes())
    damaged[-1] ^= 1
    weights_file.write_bytes(bytes(damaged))
    (kept[-1].parent / ".step-000000999.tmp").mkdir()  # cut short while it was written
    found = newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == int(kept[0].name.removeprefix("step-"))
    assert "checkpoint skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_frozen_weights_stay_and_no_checkpoint_holds_them(tmp_path: Path, tiny_base: Path) -> None:
    student = model(tiny_base)
    table = student.get_input_embeddings().weight.detach().clone()
    plan = setting(tmp_path, epochs=2, freeze_embeddings=True, **EVERY_STEP)
    outcome = train(student, TRAIN, Supervised(), score, plan)
    assert outcome.score > 0.7
    assert torch.equal(student.get_input_embeddings().weight, table)
    for group in ("model", "best"):
        held = load_file(sorted(tmp_path.glob("step-*"))[-1] / f"{group}.safetensors")
        assert {*weights(student)} - {*held} == {"bert.embeddings.word_embeddings.weight"}


@pytest.mark.slow
def test_no_pickle_is_written(tmp_path: Path, tiny_base: Path) -> None:
    train(model(tiny_base), TRAIN, Supervised(), score, setting(tmp_path, epochs=1, **EVERY_STEP))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}


class Broken(Supervised):
    """A term that is NaN from the third step on."""

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        factor = float("nan") if step.index >= 2 else 0.0
        return super().forward(outputs, batch, step) | {"kl": outputs.logits.sum() * factor}


def test_a_nan_loss_stops_the_run_names_the_term_and_records_the_step(tmp_path: Path, tiny_base: Path) -> None:
    folder = tmp_path / "w" / "failures" / "distill"
    plan = replace(setting(tmp_path / "c", accumulate=2), work=tmp_path / "w")
    student = model(tiny_base)
    with pytest.raises(TrainingError, match=rf"the kl loss became nan at step 3 of \d+ in distill;.* are in {folder}"):
        train(student, TRAIN, Broken(), score, plan)
    verify(folder)
    failure = read_json(folder / "failure.json")
    assert (failure["step"], failure["values"]["kl"]) == (3, "nan")
    assert math.isfinite(failure["values"]["ce"])
    for number, rows in enumerate(failure["rows"]):
        arrays, batch = load_file(folder / f"batch-{number}.safetensors"), TRAIN.batch(np.array(rows))
        assert arrays["rows"].tolist() == rows
        assert arrays["input_ids"].tolist() == batch.input_ids.tolist()
    # The weights before the step are finite, and the step can be repeated with them.
    kept = load_classifier(folder / "model").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in student.state_dict().items())
    assert all(bool(value.isfinite().all()) for value in kept.values())


def test_an_infinite_gradient_stops_the_run_before_the_update(tmp_path: Path, tiny_base: Path) -> None:
    class Steep(Supervised):
        def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
            # Finite itself, with an infinite slope at 0.
            return super().forward(outputs, batch, step) | {"root": (0 * outputs.logits).sum().abs().sqrt()}

    student = model(tiny_base)
    start = weights(student)
    with pytest.raises(TrainingError, match="the norm of the gradients became nan at step 1 of"):
        train(student, TRAIN, Steep(), score, replace(setting(tmp_path / "c"), work=tmp_path / "f"))
    assert all(torch.equal(value, start[name]) for name, value in weights(student).items())
    assert read_json(tmp_path / "f" / "failures" / "distill" / "failure.json")["values"]["norm"] == "nan"


class Full(Supervised):
    """An accelerator with memory for a number of padded tokens."""

    def __init__(self, holds: int, error: Exception) -> None:
        super().__init__()
        self.holds, self.error = holds, error
        self.sizes: list[int] = []

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        self.sizes.append(batch.input_ids.size)
        # In the middle of a step: gradients of the batches before are there already.
        if step.index == 1 and batch.input_ids.size > self.holds:
            raise self.error
        return super().forward(outputs, batch, step)


@pytest.mark.slow
def test_out_of_memory_repeats_the_step_with_half_the_tokens_and_the_same_result(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = {"epochs": 1, "accumulate": 2, "dropout": 0.0}
    wanted, found = model(tiny_base), model(tiny_base)
    train(wanted, TRAIN, Supervised(), score, setting(tmp_path / "a", **plan))
    goal = Full(64, torch.OutOfMemoryError("CUDA out of memory"))
    train(found, TRAIN, goal, score, setting(tmp_path / "b", **plan))
    assert max(goal.sizes[:2]) > 64
    assert max(goal.sizes[3:]) <= 64
    other = weights(wanted)
    assert all(value.numpy() == pytest.approx(other[name].numpy(), abs=2e-5) for name, value in weights(found).items())
    assert "out of memory: batches of 64 tokens from here on, half of distill.batch_tokens" in capsys.readouterr().out


def test_out_of_memory_twice_names_the_setting(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(TrainingError, match=r"of 64 tokens, half of .*; set distill\.batch_tokens to 32 or less"):
        train(model(tiny_base), TRAIN, Full(8, torch.OutOfMemoryError("full")), score, setting(tmp_path))
    # The machine's own memory: half the tokens would most likely fail as well, and far more slowly.
    own = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    with pytest.raises(TrainingError, match=r"of 128 tokens; set distill\.batch_tokens to 64 or less"):
        train(model(tiny_base), TRAIN, Full(8, own), score, setting(tmp_path))
    with pytest.raises(RuntimeError, match="another"):
        train(model(tiny_base), TRAIN, Full(8, RuntimeError("another")), score, setting(tmp_path))


@pytest.mark.slow
def test_the_initial_weights_are_kept_if_dev_does_not_improve(tmp_path: Path, tiny_base: Path) -> None:
    student = model(tiny_base)
    start = weights(student)
    scores = iter([0.9, 0.5, 0.9])
    outcome = train(student, TRAIN, Supervised(), lambda _: next(scores), setting(tmp_path, keep_start=True, epochs=2))
    assert outcome.scores == [0.9, 0.5, 0.9]
    assert all(torch.equal(value, start[name]) for name, value in weights(student).items())


@pytest.mark.slow
def test_patience_ends_a_run_without_a_gain(tmp_path: Path, tiny_base: Path) -> None:
    scores = iter([0.8, 0.7, 0.6, 0.9])
    outcome: Outcome = train(
        model(tiny_base), TRAIN, Supervised(), lambda _: next(scores), setting(tmp_path, patience=2)
    )
    assert outcome.scores == [0.8, 0.7, 0.6]


@pytest.mark.slow
def test_agreement_breaks_ties_between_scores(tmp_path: Path, tiny_base: Path) -> None:
    scores = iter([(0.8, 0.5), (0.8, 0.7), (0.7, 0.9), (0.8, 0.7)])
    kept: list[dict[str, Tensor]] = []

    def judge(found: torch.nn.Module) -> tuple[float, float]:
        kept.append(weights(found))
        return next(scores)

    student = model(tiny_base)
    outcome = train(student, TRAIN, Supervised(), judge, setting(tmp_path))
    assert (outcome.score, outcome.scores) == (0.8, [0.8, 0.8, 0.7, 0.8])
    assert all(torch.equal(value, kept[1][name]) for name, value in weights(student).items())


@pytest.mark.slow
def test_dev_is_scored_as_often_as_the_plan_says(tmp_path: Path, tiny_base: Path) -> None:
    outcome = train(model(tiny_base), TRAIN, Supervised(), score, setting(tmp_path, epochs=2, evaluations_per_epoch=3))
    assert len(outcome.scores) == 6


@pytest.mark.slow
def test_bf16_trains(tmp_path: Path, tiny_base: Path) -> None:
    plan = setting(tmp_path).plan
    outcome = train(model(tiny_base), TRAIN, Supervised(), score, Setting("distill", plan, 11, CPU, "bf16", tmp_path))
    assert outcome.score > 0.9


@pytest.mark.slow
def test_fp16_trains_and_skips_gradients_that_overflow(tmp_path: Path, tiny_base: Path) -> None:
    plan = setting(tmp_path, epochs=2).plan
    student = model(tiny_base)
    start = weights(student)
    seen: list[bool] = []

    class Watched(Supervised):
        def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
            moved = any(not torch.equal(value, start[name]) for name, value in student.state_dict().items())
            seen.append(moved)
            # 2^16, the scaler's initial scale, times this slope overflows fp32, so that the step has to be skipped.
            steep = outputs.logits.float().sum() * (1e36 if step.index == 0 else 0.0)
            return super().forward(outputs, batch, step) | {"steep": steep - steep.detach()}

    outcome = train(student, TRAIN, Watched(), score, Setting("distill", plan, 11, CPU, "fp16", tmp_path))
    assert seen[:3] == [False, False, True]
    assert outcome.score > 0.8
    assert all(bool(value.isfinite().all()) for value in weights(student).values())


@pytest.mark.slow
def test_fp16_stops_if_no_scale_helps(tmp_path: Path, tiny_base: Path) -> None:
    class Steep(Supervised):
        def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
            return super().forward(outputs, batch, step) | {"root": (0 * outputs.logits).sum().abs().sqrt()}

    plan = replace(Setting("distill", setting(tmp_path).plan, 11, CPU, "fp16", tmp_path), work=tmp_path / "f")
    with pytest.raises(TrainingError, match="norm of the gradients became nan at step 27 of"):
        train(model(tiny_base), TRAIN, Steep(), score, plan)


def test_predictions_do_not_depend_on_the_batches(tiny_base: Path) -> None:
    student = model(tiny_base)
    one_by_one = predict_logits(student, DEV, batch_tokens=16)
    assert predict_logits(student, DEV, batch_tokens=4096) == pytest.approx(one_by_one, abs=1e-5)


def test_auto_precision_measures_once_and_gives_a_reason(tmp_path: Path) -> None:
    remembered = tmp_path / "precision.json"
    assert choose_device("auto").type in {"cuda", "mps", "cpu"}
    assert choose_precision("fp32", CPU, 32, 64, remembered) == ("fp32", "set in params")
    assert not remembered.exists()
    precision, why = choose_precision("auto", CPU, 32, 64, remembered)
    assert precision in {"fp32", "bf16"}
    assert "GFLOP/s in fp32" in why
    # A second measurement could differ, but a rerun has to end with the same weights.
    key = next(iter(read_json(remembered)))
    for fp32, bf16, expected in ((100.0, 129.0, "fp32"), (100.0, 131.0, "bf16")):
        write_json(remembered, {key: [fp32, bf16]})
        assert choose_precision("auto", CPU, 32, 64, remembered)[0] == expected
    choose_precision("auto", CPU, 64, 64, remembered)
    assert len(read_json(remembered)) == 2
