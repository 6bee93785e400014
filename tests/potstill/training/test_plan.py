from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from potstill.config.distill_params import Control, Distill, Finetune
from potstill.config.teacher_params import Pretrain, Teacher
from potstill.config.training_params import Training
from potstill.data.tokens.batches import shuffled_batches
from potstill.training.plan import FEW_STEPS, DataSize, augmentation, few_steps, plan_training, steps_per_epoch

SECTIONS: dict[str, type[Training]] = {
    "pretrain": Pretrain,
    "teacher": Teacher,
    "distill": Distill,
    "finetune": Finetune,
    "control": Control,
}
# rows of train, classes, tokens of a text
SIZES = [(70, 2, 20), (210, 5, 30), (700, 2, 12), (2_100, 150, 20), (7_000, 2, 27), (70_000, 10, 60), (700_000, 4, 80)]


def _size(rows: int, outputs: int, tokens: float, **more: Any) -> DataSize:
    cuts = augmentation(rows) or {}
    return DataSize(rows, tokens, outputs, transfer=rows * sum(cuts.values()), **more)


@pytest.mark.parametrize(("rows", "outputs", "tokens"), SIZES)
def test_every_stage_makes_enough_steps_from_a_hundred_rows_to_a_million(rows: int, outputs: int, tokens: int) -> None:
    plans = plan_training(_size(rows, outputs, tokens, scratch=True))
    assert set(plans) == set(SECTIONS)
    for stage, plan in plans.items():
        assert few_steps(stage, plan.steps, rows) is None
        assert plan.average_decay is None or 1 / (1 - plan.average_decay) < plan.steps / 5
        assert plan.warmup * plan.steps >= 5
        assert plan.epochs * plan.evaluations_per_epoch >= 4


@pytest.mark.parametrize(("rows", "outputs", "tokens"), SIZES)
def test_params_take_every_plan(rows: int, outputs: int, tokens: int) -> None:
    for stage, plan in plan_training(_size(rows, outputs, tokens, scratch=True)).items():
        values = plan.params() | ({"layers": [0], "temperature": 2.0, "alpha": 0.9} if stage == "distill" else {})
        section = SECTIONS[stage].model_validate(values)
        assert (section.epochs, section.batch_tokens) == (plan.epochs, plan.batch_tokens)


def test_more_rows_mean_fewer_epochs_and_more_classes_more_steps() -> None:
    epochs = [plan_training(_size(rows, 5, 30))["distill"].epochs for rows in (200, 2_000, 200_000)]
    assert epochs == sorted(epochs, reverse=True)
    few, many = (plan_training(_size(3_000, outputs, 30))["teacher"].steps for outputs in (2, 150))
    assert many > 2 * few


def test_wider_encoders_learn_more_slowly() -> None:
    rates = [
        plan_training(_size(1_000, 2, 30, width=width))["teacher"].learning_rate for width in (128, 384, 768, 1024)
    ]
    assert rates == sorted(rates, reverse=True)
    assert rates[1] == pytest.approx(1.4e-4)


def test_planned_steps_equal_those_of_the_loop() -> None:
    lengths = np.random.default_rng(3).integers(5, 60, 900)
    plan = plan_training(DataSize(900, float(lengths.mean()), 3))["teacher"]
    real = sum(len(shuffled_batches(lengths, plan.batch_tokens, seed=1, epoch=epoch)) for epoch in range(plan.epochs))
    assert plan.steps == pytest.approx(real, rel=0.1)
    assert steps_per_epoch(900, 30.0, 512, accumulate=4) < steps_per_epoch(900, 30.0, 512)


def test_a_plan_of_few_steps_gives_a_warning_with_advice() -> None:
    """With the plan for 7,000 rows, 300 rows of 5 classes give the teacher four steps."""
    steps = 2 * steps_per_epoch(210, 14.0, 2048)
    warning = few_steps("teacher", steps, 210)
    assert warning is not None
    assert f"teacher makes only {steps} optimiser steps of 210 rows" in warning
    assert "raise teacher.epochs to" in warning
    assert few_steps("teacher", FEW_STEPS, 210) is None


def test_few_rows_get_more_augmentation_and_many_none() -> None:
    counts = [sum((augmentation(rows) or {}).values()) for rows in (300, 5_000, 30_000, 1_000_000)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
