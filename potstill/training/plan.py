"""Training plans that follow from the size of the data: epochs, batches, warm-up, averaging and patience.

A model learns in optimiser steps, not in epochs: 300 rows in batches of 75 are 4 steps an epoch, 300,000 are 4,000.
Each plan here is therefore made backwards, from the steps that a stage needs to the epochs that give them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Below that many optimiser steps a stage has hardly moved from where it started.
FEW_STEPS = 90

StageName = Literal["pretrain", "teacher", "distill", "finetune", "control"]

# Rows of a batch, from few rows to many: a small set needs the steps, a large one the speed.
_BATCH_ROWS = ((1_000, 16), (4_000, 32), (math.inf, 64))
_BATCH_TOKENS = (256, 16_384)
# Rows of a batch have nearly the same length; what remains is padding.
_PADDING = 1.06
# The rate at which the default teacher, of that width, learns in batches of 2,048 tokens; wider encoders take less.
_RATE, _WIDTH, _LARGEST_RATE = 1.4e-4, 384, 5e-4


@dataclass(frozen=True)
class DataSize:
    """What a plan follows from.

    Attributes:
        rows: of the train split, which have a gold label.
        tokens: of a text on average, in the teacher's tokens, special ones included and what is cut left out.
        outputs: classes or labels; 1 for a number and for answers.
        transfer: further rows that the student learns from, those of augmentation included.
        width: hidden size of the teacher.
        scratch: whether the teacher is made from scratch.
    """

    rows: int
    tokens: float
    outputs: int
    transfer: int = 0
    width: int = _WIDTH
    scratch: bool = False


@dataclass(frozen=True)
class StagePlan:
    """How one stage trains: the keys of its section of params, and the optimiser steps that follow."""

    epochs: int
    learning_rate: float
    batch_tokens: int
    warmup: float
    average_decay: float | None
    evaluations_per_epoch: int
    patience: int | None
    steps: int

    def params(self) -> dict[str, Any]:
        """The keys for `params.yaml`, without the steps."""
        return {name: value for name, value in vars(self).items() if name != "steps"}


@dataclass(frozen=True)
class _Need:
    """What a stage needs: steps at the least and more for each output, and the epochs that bound them."""

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
    """Plans of every training stage for data of that size; `pretrain` among them for a teacher from scratch."""
    stages: list[StageName] = ["teacher", "distill", "finetune", "control"]
    return {stage: _stage_plan(stage, size) for stage in (["pretrain", *stages] if size.scratch else stages)}


def augmentation(rows: int) -> dict[str, int] | None:
    """`prepare.augment` without its seed: cuts of each train text that join transfer, more of them for few rows.

    Args:
        rows: of the train split.

    Returns:
        `crops` and `splices`, or None where the rows alone are many and the teacher would read for hours.
    """
    if rows >= 50_000:
        return None
    each = 4 if rows < 2_000 else 2 if rows < 20_000 else 1
    return {"crops": each, "splices": each}


def steps_per_epoch(rows: int, tokens: float, batch_tokens: int, accumulate: int = 1) -> int:
    """Optimiser steps of an epoch over rows of that many tokens on average."""
    batches = math.ceil(rows * max(tokens, 1.0) * _PADDING / batch_tokens)
    return max(1, math.ceil(batches / accumulate))


def few_steps(stage: str, steps: int, rows: int) -> str | None:
    """A warning where a stage makes too few optimiser steps to learn much, with what to do; None where it does not.

    Args:
        stage: its name, the section of params.
        steps: of the whole run of the stage.
        rows: that it learns from.
    """
    if steps >= FEW_STEPS:
        return None
    return (
        f"{stage} makes only {steps} optimiser steps of {rows:,} rows (fewer than {FEW_STEPS} teach little); "
        f"raise {stage}.epochs to {math.ceil(FEW_STEPS / max(steps, 1))} times as many or lower {stage}.batch_tokens"
    )


def _stage_plan(stage: StageName, size: DataSize) -> StagePlan:
    need = _NEEDS[stage]
    rows = size.rows + (size.transfer if stage in ("distill", "pretrain") else 0)
    batch_tokens = _batch_tokens(size.rows, size.tokens)
    per_epoch = steps_per_epoch(rows, size.tokens, batch_tokens)
    wanted = need.steps + need.steps_per_output * size.outputs
    epochs = min(max(math.ceil(wanted / per_epoch), need.epochs[0]), need.epochs[1])
    steps = epochs * per_epoch
    return StagePlan(
        epochs=epochs,
        learning_rate=_learning_rate(size.width, need.rate),
        batch_tokens=batch_tokens,
        warmup=round(min(max(10 / steps, 0.06), 0.3), 3),
        average_decay=_average_decay(steps),
        evaluations_per_epoch=_evaluations(epochs),
        patience=need.patience,
        steps=steps,
    )


def _batch_tokens(rows: int, tokens: float) -> int:
    """The power of two that holds about the wanted rows of average length."""
    wanted = next(batch for limit, batch in _BATCH_ROWS if rows < limit) * max(tokens, 1.0)
    least, most = _BATCH_TOKENS
    return int(min(max(2 ** round(math.log2(wanted)), least), most))


def _learning_rate(width: int, factor: float) -> float:
    return float(f"{min(_RATE * _WIDTH / width, _LARGEST_RATE) * factor:.1e}")


def _average_decay(steps: int) -> float | None:
    """A memory of a tenth of the steps; None where even that is too short to be worth a copy of the weights."""
    if steps < FEW_STEPS // 2:
        return None
    return round(1 - 1 / min(max(steps / 10, 10), 1000), 4)


def _evaluations(epochs: int) -> int:
    """At least four looks at dev in a run."""
    return max(1, math.ceil(4 / epochs))
