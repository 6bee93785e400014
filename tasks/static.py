"""A static-embedding student: the teacher's token vectors, and its stored signals on all rows as their teacher."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from potstill.artifacts import whole_folder, write_manifest
from potstill.config import Distill, Params, StaticStudent
from potstill.data.tokenization import KEPT, load_tokenizer
from potstill.distillation.composition import distillation
from potstill.models.loading import load_classifier, save_model
from potstill.models.static import save_static, static_from_teacher
from potstill.training.loop import train
from tasks.learning import (
    dev_score,
    open_split,
    open_splits,
    prepare_setting,
    stored_signals,
    student_tokens,
    teacher_logits,
    tokenizer_folder,
    tokens_info,
)
from tasks.stage import Stage


def teach_static(stage: Stage, plan: StaticStudent, width: int, out: Path, params: Params) -> None:
    """Train a static student and write it as `out`: what `load_classifier` takes, and `model2vec/` in it.

    Args:
        stage: the distill stage, whose tokens, teacher and signals are used.
        plan: its training.
        width: of the vectors; a teacher that is narrower gives its own.
        out: the folder to make.
        params: of the workspace; temperature and alpha are those of `distill`.
    """
    torch.manual_seed(stage.project.seed)
    teacher = load_classifier(stage.deps["teacher"])
    length, kept = tokens_info(stage)["max_length"], student_tokens(stage) / KEPT
    student = static_from_teacher(teacher, load_tokenizer(tokenizer_folder(stage), length), width)
    if kept.exists():
        student = student.keep(np.load(kept, allow_pickle=False))
    section = params.distill.model_copy(update=plan.model_dump(exclude={"dimensions"}) | {"terms": []})
    # A name of its own: it has checkpoints of its own, and an error names the key to change.
    stage = replace(stage, name="search.static", sections={**stage.sections, "distill": section})
    dataset, taught = (open_splits(stage, ("train", "transfer"), student=own) for own in (True, False))
    setting = prepare_setting(stage, stage.params(Distill), student)
    setting = replace(setting, checkpoints=stage.checkpoints.with_name(f"{stage.checkpoints.name}-{width}"))
    objective = distillation(
        section, student, teacher, stored_signals(stage, taught),
        device=setting.device, precision=setting.precision, seed=stage.project.seed,
    )  # fmt: skip
    score = dev_score(stage, open_split(stage, "dev", student=True), setting, teacher_logits(stage, "dev"))
    outcome = train(student, dataset, objective, score, setting)
    with whole_folder(out) as folder:
        save_model(student.cpu(), folder, tokenizer_folder(stage, student=True))
        save_static(student, load_tokenizer(tokenizer_folder(stage, student=True), length), folder / "model2vec")
        write_manifest(folder, {"dev_accuracy": outcome.score})
    shutil.rmtree(setting.checkpoints, ignore_errors=True)
