"""What the learning stages share: opening splits, choosing device and precision, scoring dev."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from potstill.artifacts import read_json
from potstill.config import Training
from potstill.data.batches import TokenDataset
from potstill.data.tokenization import STUDENT
from potstill.progress import say
from potstill.training.loop import Outcome, Setting
from potstill.training.precision import Precision, choose_device, choose_precision, product_size
from potstill.training.predict import accuracy, predict_logits
from tasks.stage import WORK, Result, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def student_tokens(stage: Stage) -> Path:
    """Where the student's token ids and tokenizer lie: the teacher's own folder unless it has a vocabulary of its own.

    Every split has the same rows in the same order in both.
    """
    own = stage.deps["tokens"] / STUDENT
    return own if own.exists() else stage.deps["tokens"]


def tokens_info(stage: Stage, *, student: bool = False) -> dict[str, Any]:
    """`info.json` of the tokenize stage, the teacher's or the student's."""
    info: dict[str, Any] = read_json(_tokens(stage, student=student) / "info.json")
    return info


def open_split(stage: Stage, split: str, *, student: bool = False) -> TokenDataset:
    """One split of token ids, the teacher's or the student's."""
    info = tokens_info(stage, student=student)
    return TokenDataset.open(_tokens(stage, student=student) / f"{split}.arrow", info["pad_token_id"])


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
    return Setting(stage.name, plan, stage.project.seed, device, precision, stage.checkpoints, keep_start, WORK)


def dev_accuracy(dev: TokenDataset, setting: Setting) -> Callable[[PreTrainedModel], float]:
    """Accuracy on dev: the one number all stages select weights by, from the first evaluation to the last."""

    def score(model: PreTrainedModel) -> float:
        return accuracy(predict_logits(model, dev, device=setting.device, precision=setting.precision), dev.labels)

    return score


def training_result(outcome: Outcome, summary: str, metrics: dict[str, float] | None = None) -> Result:
    """A training run as MLflow sees it."""
    found = {"dev_accuracy": outcome.score, "rows_seen": float(outcome.rows)} | (metrics or {})
    return Result(summary, found, outcome.history)


def tokenizer_folder(stage: Stage, *, student: bool = False) -> Path:
    """Where the tokenizer's files lie, the teacher's or the student's."""
    return _tokens(stage, student=student) / "tokenizer"


def _tokens(stage: Stage, *, student: bool) -> Path:
    return student_tokens(stage) if student else stage.deps["tokens"]
