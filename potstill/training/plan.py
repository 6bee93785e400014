"""Training plans for the size of the data: epochs, batches, warm-up, weight averaging and patience.

What a model learns depends on the number of optimizer steps, not of epochs: in batches of 75, 300 rows are 4 steps an
epoch, 300,000 rows are 4,000. A plan therefore starts from the number of steps that a stage needs, and derives the
number of epochs from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# With fewer optimizer steps than this a stage learns little.
FEW_STEPS = 90

StageName = Literal["pretrain", "teacher", "distill", "finetune", "control"]

# (Upper limit of training rows, rows of a batch): small data needs many steps, large data needs speed.
_BATCH_ROWS = ((1_000, 16), (4_000, 32), (math.inf, 64))
_BATCH_TOKENS = (256, 16_384)
# Length of a transfer row relative to a train row; most transfer rows are parts of train texts.
_TRANSFER_LENGTH = 0.8
# Padded tokens for each real token; small, because rows of a batch have similar lengths.
_PADDING = 1.06
# The learning rate of the default teacher, of this width, in batches of 2,048 tokens; wider encoders need lower ones.
_RATE = 1.4e-4
_WIDTH = 384
_LARGEST_RATE = 5e-4


@dataclass(frozen=True)
class DataSize:
    """The size of the data and of the teacher, from which plans follow.

    Attributes:
        rows: labelled rows of the train split.
        tokens: mean length of a text in the teacher's tokens, after truncation, with special tokens.
        outputs: number of classes or labels; 1 for regression and question answering.
        transfer: rows without labels that the student learns from, including augmentation.
        width: hidden size of the teacher.
        scratch: whether the teacher is trained from scratch.
    """

    rows: int
    tokens: float
    outputs: int
    transfer: int = 0
    width: int = _WIDTH
    scratch: bool = False

    @property
    def learned(self) -> float:
        """Rows of train and transfer together, in units of a train row's length."""
        return self.rows + _TRANSFER_LENGTH * self.transfer


@dataclass(frozen=True)
class StagePlan:
    """The training plan of a stage: keys of its section of params, and the number of optimizer steps."""

    epochs: int
    learning_rate: float
    batch_tokens: int
    warmup: float
    average_decay: float | None
    evaluations_per_epoch: int
    patience: int | None
    steps: int

    def params(self) -> dict[str, Any]:
        """Return the keys for `params.yaml`, which do not include the steps."""
        return {name: value for name, value in vars(self).items() if name != "steps"}


@dataclass(frozen=True)
class _Need:
    """The needs of a stage: optimizer steps, further steps for each output, and limits of the number of epochs."""

    steps: int
    steps_per_output: int
    epochs: tuple[int, int]
    rate: float = 1.0
    patience: int | None = None


_NEEDS: Mapping[StageName, _Need] = {
    "pretrain": _Need(2_000, 0, (3, 60), rate=3.5),
    "teacher": _Need(250, 20, (2, 30)),
    "distill": _Need(600, 30, (2, 60)),
    "finetune": _Need(100, 5, (1, 20), rate=2 / 7, patience=3),
    "control": _Need(300, 20, (3, 40)),
}


def plan_training(size: DataSize) -> dict[StageName, StagePlan]:
    """Plan every training stage for data of a size, including `pretrain` for a teacher from scratch."""
    stages: list[StageName] = ["teacher", "distill", "finetune", "control"]
    return {stage: _stage_plan(stage, size) for stage in (["pretrain", *stages] if size.scratch else stages)}


def augmentation(rows: int) -> dict[str, int] | None:
    """Choose the keys of `prepare.augment`: how many parts of each train text become transfer rows.

    Args:
        rows: rows of the train split.

    Returns:
        `crops` and `splices`; None for many rows, which do not need augmentation and take the teacher long enough.
    """
    if rows >= 50_000:
        return None
    count = 1
    if rows < 20_000:
        count = 2
    if rows < 2_000:
        count = 4
    return {"crops": count, "splices": count}


def steps_per_epoch(rows: float, tokens: float, batch_tokens: int, accumulate: int = 1) -> int:
    """Estimate the optimizer steps of an epoch over rows of that many tokens on average."""
    batches = math.ceil(rows * max(tokens, 1.0) * _PADDING / batch_tokens)
    return max(1, math.ceil(batches / accumulate))


def few_steps(stage: str, steps: int, rows: int) -> str | None:
    """Write a warning, with advice, for a stage with too few optimizer steps; None if it has enough.

    Args:
        stage: name of the stage and of its section of params.
        steps: optimizer steps of the stage.
        rows: rows that it learns from.
    """
    if steps >= FEW_STEPS:
        return None
    return (
        f"{stage} makes only {steps} optimiser steps of {rows:,} rows (fewer than {FEW_STEPS} teach little); "
        f"raise {stage}.epochs to {math.ceil(FEW_STEPS / max(steps, 1))} times as many or lower {stage}.batch_tokens"
    )


def _stage_plan(stage: StageName, size: DataSize) -> StagePlan:
    need = _NEEDS[stage]
    rows = size.learned if stage in ("distill", "pretrain") else size.rows
    batch_tokens = _batch_tokens(size.rows, size.tokens)
    per_epoch = steps_per_epoch(rows, size.tokens, batch_tokens)
    needed = need.steps + need.steps_per_output * size.outputs
    epochs = min(max(math.ceil(needed / per_epoch), need.epochs[0]), need.epochs[1])
    steps = epochs * per_epoch
    return StagePlan(
        epochs=epochs,
        learning_rate=float(f"{min(_RATE * _WIDTH / size.width, _LARGEST_RATE) * need.rate:.1e}"),
        batch_tokens=batch_tokens,
        warmup=round(min(max(10 / steps, 0.06), 0.3), 3),
        average_decay=_average_decay(steps),
        # At least four in a run.
        evaluations_per_epoch=max(1, math.ceil(4 / epochs)),
        patience=need.patience,
        steps=steps,
    )


def _batch_tokens(rows: int, tokens: float) -> int:
    """The power of two that is closest to the tokens of a batch."""
    needed = next(batch for limit, batch in _BATCH_ROWS if rows < limit) * max(tokens, 1.0)
    least, most = _BATCH_TOKENS
    return int(min(max(2 ** round(math.log2(needed)), least), most))


def _average_decay(steps: int) -> float | None:
    """The decay of an average over about a tenth of the steps; None for runs too short to benefit from averaging."""
    if steps < FEW_STEPS // 2:
        return None
    return round(1 - 1 / min(max(steps / 10, 10), 1000), 4)
