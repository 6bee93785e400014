"""What the learning stages share: opening splits, choosing device and precision, scoring dev."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from potstill.artifacts import read_json
from potstill.compute.precision import Precision, choose_device, choose_precision, product_size
from potstill.config.base import TaskKind
from potstill.config.training_params import Training
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.tokenization import STUDENT
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
from potstill.scores.scoring import SCORINGS, Scoring
from potstill.training.loop import Outcome, Setting
from potstill.training.selection import Score
from tasks.stage import Result, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def student_tokens(stage: Stage) -> Path:
    """Where the student's token ids and tokenizer lie: the teacher's own folder unless it has a vocabulary of its own.

    Every split has the same rows in the same order in both.
    """
    own = stage.deps["tokens"] / STUDENT
    return own if own.exists() else stage.deps["tokens"]


def tokens_info(stage: Stage, *, student: bool = False, member: str = ".") -> dict[str, Any]:
    """`info.json` of the tokenize stage, the teacher's or the student's; `member` is `members.Member.tokens`."""
    info: dict[str, Any] = read_json(_tokens(stage, student=student) / member / "info.json")
    return info


def task_kind(stage: Stage) -> TaskKind:
    """What the data is for, as `prepare.task` says."""
    task: TaskKind = tokens_info(stage)["task"]
    return task


def open_split(stage: Stage, split: str, *, student: bool = False, member: str = ".") -> TokenDataset:
    """One split of token ids, the teacher's or the student's; `member` is `members.Member.tokens`."""
    info = tokens_info(stage, student=student, member=member)
    return TokenDataset.open(_tokens(stage, student=student) / member / f"{split}.arrow", info["pad_token_id"])


def open_splits(stage: Stage, splits: Sequence[str], *, student: bool = False, member: str = ".") -> TokenDataset:
    """Several splits as one; see `open_split`."""
    return TokenDataset.concatenate([open_split(stage, split, student=student, member=member) for split in splits])


def choose(stage: Stage, model: PreTrainedModel) -> tuple[torch.device, Precision]:
    """Device and precision as params say, measured where they say `auto`; told to the user."""
    device = choose_device(stage.project.device)
    precision, why = choose_precision(stage.project.precision, device, *product_size(model.config), PRECISION)
    say(f"{stage.name}: {device.type}, {precision} ({why})")
    return device, precision


def prepare_setting(stage: Stage, plan: Training, model: PreTrainedModel, *, keep_start: bool = False) -> Setting:
    """Everything `train` needs to know in addition to model, data and objective."""
    device, precision = choose(stage, model)
    return Setting(
        stage.name, plan, stage.project.seed, device, precision, stage.checkpoints, keep_start, WORK, stage.watch
    )


def scoring_of(stage: Stage) -> Scoring:
    """The score of the stage's task."""
    return SCORINGS[task_kind(stage)]


def dev_score(
    stage: Stage, dev: TokenDataset, setting: Setting, teacher: Floats | None = None
) -> Callable[[PreTrainedModel], Score]:
    """The task's score on dev: the one number all stages select weights by, from the first evaluation to the last.

    Between equal ones the agreement with the teacher's answers, [rows, outputs] logits, decides.
    """
    scoring = scoring_of(stage)

    def score(model: PreTrainedModel) -> Score:
        logits = predict_logits(model, dev, device=setting.device, precision=setting.precision)
        found = scoring.score(logits, dev.whole_labels)
        return found if teacher is None else (found, scoring.agreement(teacher, logits))

    return score


def training_result(
    outcome: Outcome, scoring: Scoring, summary: str, metrics: dict[str, float] | None = None
) -> Result:
    """A training run as MLflow sees it."""
    found = {scoring.dev_key: outcome.score, "rows_seen": float(outcome.rows), "steps": float(outcome.steps)} | (
        metrics or {}
    )
    return Result(summary, found, outcome.history)


def teacher_members(stage: Stage) -> list[Member]:
    """The teacher's models, the first one first."""
    return read_members(stage.deps["teacher"])


def stored_signals(stage: Stage, rows: TokenDataset) -> Source:
    """The teacher's signals of rows in its tokens; of several models, of all together."""
    stored = StoredSignals.open(stage.deps["signals"], rows, stage.deps["teacher"])
    return average(stored, [member.weight for member in teacher_members(stage)])


def teacher_logits(stage: Stage, split: str, advance: Callable[[float], None] | None = None) -> Floats:
    """[rows, classes] logits of the teacher over a split; of several models, each on its tokens, of all together."""
    members, found = teacher_members(stage), []
    for member in members:
        model = load_classifier(member.folder).to(choose_device(stage.project.device))
        found.append(predict_logits(model, open_split(stage, split, member=member.tokens), advance=advance))
        require_finite(found[-1], str(member.folder))
    return pooled(found, [member.weight for member in members], task_kind(stage))


def factorize_embeddings(stage: Stage, student: PreTrainedModel, rows: TokenDataset | None = None) -> None:
    """Give a student's table of token embeddings the rank that `tokenize.vocabulary` names, in place.

    Args:
        stage: receives `data/tokens`.
        student: with its own table.
        rows: their tokens weigh most; None: only a table that has that rank already, as not every student has.
    """
    rank = tokens_info(stage, student=True).get("vocabulary", {}).get("rank")
    if rank is not None and (rows is not None or has_rank(student, rank)):
        factorize(student, rank, None if rows is None else rows.token_counts())


def tokenizer_folder(stage: Stage, *, student: bool = False, member: str = ".") -> Path:
    """Where the tokenizer's files lie, the teacher's or the student's; `member` is `members.Member.tokens`."""
    return _tokens(stage, student=student) / member / "tokenizer"


def _tokens(stage: Stage, *, student: bool) -> Path:
    return student_tokens(stage) if student else stage.deps["tokens"]
