"""Code that the training stages share: token ids, device and precision, the teacher's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from potstill.artifacts import MANIFEST, read_json
from potstill.compute.precision import Precision, choose_device, choose_precision, product_size
from potstill.config.training_params import Training
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.token_folder import TokenFolder
from potstill.distillation.teachers.ensembles import average
from potstill.distillation.teachers.mean_answers import Floats, pooled
from potstill.distillation.teachers.predict import predict_logits
from potstill.distillation.teachers.providers import Source
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.models.loading import load_classifier
from potstill.models.students.factorized import factorize, has_rank
from potstill.paths import PRECISION, WORK
from potstill.pretrained.members import Member, read_members
from potstill.progress import say
from potstill.scores.metrics import require_finite
from potstill.scores.scoring import Scoring
from potstill.training.loop import Outcome, Setting
from tasks.stage import Result, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Outs of the control stage. The first is always trained.
CONTROLS = ("control", "initialised")


def open_tokens(stage: Stage) -> TokenFolder:
    """Open `data/tokens`: the splits, the tokenizers and the kind of task."""
    return TokenFolder.open(stage.deps["tokens"])


def choose(stage: Stage, model: PreTrainedModel) -> tuple[torch.device, Precision]:
    """Choose device and precision by params, for `auto` by a measurement, and print them."""
    device = choose_device(stage.project.device)
    precision, why = choose_precision(stage.project.precision, device, *product_size(model.config), PRECISION)
    say(f"{stage.name}: {device.type}, {precision} ({why})")
    return device, precision


def prepare_setting(stage: Stage, plan: Training, model: PreTrainedModel, *, keep_start: bool = False) -> Setting:
    """Build the setting of `train`: all that it needs besides model, data and objective."""
    device, precision = choose(stage, model)
    return Setting(
        stage.name, plan, stage.project.seed, device, precision, stage.checkpoints, keep_start, WORK, stage.watch
    )


def training_result(
    outcome: Outcome, scoring: Scoring, summary: str, metrics: dict[str, float] | None = None
) -> Result:
    """Report a training run as MLflow shows it."""
    numbers = {scoring.dev_key: outcome.score, "rows_seen": float(outcome.rows), "steps": float(outcome.steps)}
    return Result(summary, numbers | (metrics or {}), outcome.history)


def read_temperature(folder: Path) -> float:
    """Read the temperature fitted for a model; 1, the logits as they are, for one that was not calibrated."""
    path = folder / "calibration.json"
    return float(read_json(path)["temperature"]) if path.exists() else 1.0


def is_trained(folder: Path) -> bool:
    """Return whether a control's folder holds a model; params can leave one out (`control.initialised`)."""
    trained: bool = read_json(folder / MANIFEST)["about"].get("trained", True)
    return trained


def trained_controls(stage: Stage) -> list[str]:
    """Return the controls that the control stage has trained."""
    return [name for name in CONTROLS if is_trained(stage.deps[name])]


def teacher_members(stage: Stage) -> list[Member]:
    """List the teacher's models, the first one first."""
    return read_members(stage.deps["teacher"])


def stored_signals(stage: Stage, rows: TokenDataset) -> Source:
    """Open the teacher's signals of rows in its tokens; for several models, their weighted mean."""
    stored = StoredSignals.open(stage.deps["signals"], rows, stage.deps["teacher"])
    return average(stored, [member.weight for member in teacher_members(stage)])


def teacher_logits(stage: Stage, split: str, advance: Callable[[float], None] | None = None) -> Floats:
    """Compute the teacher's logits [rows, classes] over a split; for several models, those of their mean answer."""
    return _teacher_logits(stage, lambda tokens: tokens.split(split), advance)


def teacher_text_logits(stage: Stage, texts: Sequence[Any]) -> Floats:
    """Compute the teacher's logits [texts, classes] of texts that are in no split, for tasks that label whole texts."""
    return _teacher_logits(stage, lambda tokens: tokens.tokenize(texts))


def _teacher_logits(
    stage: Stage, rows: Callable[[TokenFolder], TokenDataset], advance: Callable[[float], None] | None = None
) -> Floats:
    tokens, members, logits = open_tokens(stage), teacher_members(stage), []
    for member in members:
        model = load_classifier(member.folder).to(choose_device(stage.project.device))
        logits.append(predict_logits(model, rows(tokens.member(member.tokens)), advance=advance))
        require_finite(logits[-1], str(member.folder))
    return pooled(logits, [member.weight for member in members], tokens.task)


def restore_rank(tokens: TokenFolder, student: PreTrainedModel) -> None:
    """Factorize a saved student's table of token embeddings again, if it has the rank that `tokenize` names."""
    rank = tokens.student.rank
    if rank is not None and has_rank(student, rank):
        factorize(student, rank)
