"""Sections `gate`, `promote`, `smoke` and `schedule`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from potstill.config.base import Share, Strict, TaskKind


class Gate(Strict):
    """Limits the candidate has to meet. A missing, NaN or infinite number fails; null switches a limit off."""

    # The task's own score: accuracy, micro F1 of several labels, R² of numbers, F1 of entities or of answers.
    min_score: Annotated[float, Field(le=1)] | None = None
    min_accuracy: Share | None = None
    min_macro_f1: Share | None = None
    min_micro_f1: Share | None = None
    # Share of rows whose every label is right.
    min_subset_accuracy: Share | None = None
    # Mean squared and mean absolute error, in the numbers' own unit.
    max_mse: Annotated[float, Field(gt=0)] | None = None
    max_mae: Annotated[float, Field(gt=0)] | None = None
    min_pearson: Annotated[float, Field(ge=-1, le=1)] | None = None
    min_spearman: Annotated[float, Field(ge=-1, le=1)] | None = None
    # Of the teacher's score on the same test split.
    min_teacher_ratio: Annotated[float, Field(gt=0)] | None = 0.97
    # Candidate's score minus the no-distillation control's (0.01 of accuracy is one point).
    min_gain_over_control: Annotated[float, Field(ge=-1, le=1)] | None = None
    # The upper bound of that gain's confidence interval: below 0 the candidate is worse than the control beyond noise.
    min_gain_over_control_upper: Annotated[float, Field(ge=-1, le=1)] | None = 0.0
    # Controls against which the proof has to say BEATS.
    must_beat: list[Literal["pretrained", "initialised"]] = []
    max_ece: Share | None = None
    max_file_mb: Annotated[float, Field(gt=0)] | None = 20.0
    max_p99_ms: Annotated[float, Field(gt=0)] | None = None
    min_speedup: Annotated[float, Field(gt=0)] | None = None
    # Score the candidate may lose against the champion re-scored on the same test split.
    max_loss_to_champion: Annotated[float, Field(ge=0, le=1)] | None = 0.005


# Limits that only some tasks have a number for; the others are of all.
GATE_TASKS: dict[str, tuple[TaskKind, ...]] = {
    "min_accuracy": ("single_label",),
    "min_macro_f1": ("single_label", "multi_label", "token_classification"),
    "max_ece": ("single_label", "multi_label", "token_classification"),
    "min_micro_f1": ("multi_label",),
    "min_subset_accuracy": ("multi_label",),
    "max_mse": ("regression",),
    "max_mae": ("regression",),
    "min_pearson": ("regression",),
    "min_spearman": ("regression",),
}


class Promote(Strict):
    """`auto` makes a candidate that passed the champion; `person` leaves it as challenger until someone approves."""

    policy: Literal["auto", "person"] = "auto"


class Smoke(Strict):
    """The built Bento's first run: golden texts, and how far a probability may be from the evaluated one."""

    texts: Annotated[int, Field(ge=1)] = 32
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    start_seconds: Annotated[float, Field(gt=0)] = 60


class Schedule(Strict):
    """When a deployment runs, and how long a stage may take."""

    cron: Annotated[str, Field(pattern=r"^\S+(\s+\S+){4}$")] = "0 3 * * 1"
    timezone: str = "UTC"
    stage_minutes: Annotated[float, Field(gt=0)] = 120
