"""What the learning stages share: opening splits, choosing device and precision, scoring dev."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from potstill.artifacts import read_json
from potstill.config import TaskKind, Training
from potstill.data.batches import TokenDataset
from potstill.evaluation.scoring import SCORINGS, Scoring
from potstill.progress import say
from potstill.training.loop import Outcome, Setting
from potstill.training.precision import Precision, choose_device, choose_precision, product_size
from potstill.training.predict import predict_logits
from tasks.stage import WORK, Result, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def tokens_info(stage: Stage) -> dict[str, Any]:
    """`info.json` of the tokenize stage."""
    info: dict[str, Any] = read_json(stage.deps["tokens"] / "info.json")
    return info


def task_kind(stage: Stage) -> TaskKind:
    """What the data is for, as `prepare.task` says."""
    task: TaskKind = tokens_info(stage)["task"]
    return task


def open_split(stage: Stage, split: str) -> TokenDataset:
    """One split of token ids."""
    return TokenDataset.open(stage.deps["tokens"] / f"{split}.arrow", tokens_info(stage)["pad_token_id"])


def choose(stage: Stage, model: PreTrainedModel) -> tuple[torch.device, Precision]:
    """Device and precision as params say, measured where they say `auto`; told to the user."""
    device = choose_device(stage.project.device)
    precision, why = choose_precision(
        stage.project.precision, device, *product_size(model.config), WORK / "precision.json"
    )
    say(f"{stage.name}: {device.type}, {precision} ({why})")
    return device, precision


def prepare_setting(stage: Stage, plan: Training, model: PreTrainedModel, *, keep_start: bool = False) -> Setting:
    """Everything `train` needs to know beside model, data and objective."""
    device, precision = choose(stage, model)
    return Setting(stage.name, plan, stage.project.seed, device, precision, stage.checkpoints, keep_start)


def scoring_of(stage: Stage) -> Scoring:
    """The score of the stage's task."""
    return SCORINGS[task_kind(stage)]


def dev_score(stage: Stage, setting: Setting) -> Callable[[PreTrainedModel], float]:
    """The task's score on dev: the one number all stages select weights by, from the first evaluation to the last."""
    dev, scoring = open_split(stage, "dev"), scoring_of(stage)

    def score(model: PreTrainedModel) -> float:
        logits = predict_logits(model, dev, device=setting.device, precision=setting.precision)
        return scoring.score(logits, dev.labels)

    return score


def training_result(
    outcome: Outcome, scoring: Scoring, summary: str, metrics: dict[str, float] | None = None
) -> Result:
    """A training run as MLflow sees it."""
    found = {scoring.dev_key: outcome.score, "rows_seen": float(outcome.rows)} | (metrics or {})
    return Result(summary, found, outcome.history)


def tokenizer_folder(stage: Stage) -> Path:
    """Where the tokenizer's files lie."""
    return stage.deps["tokens"] / "tokenizer"
