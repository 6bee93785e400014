"""Builds and writes the students of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.artifacts import MANIFEST, read_json
from potstill.config.distill_params import Distill
from potstill.data.tokens.token_folder import TokenFolder
from potstill.data.tokens.tokenization import student_base
from potstill.models.loading import load_classifier, save_model
from potstill.pretrained.inspection import STATIC
from potstill.training.student_builder import StudentBuilder
from tasks.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def student_builder(stage: Stage, tokens: TokenFolder) -> StudentBuilder:
    """Make the builder of the students that `distill` describes.

    Args:
        stage: receives the section `distill` and `data/base`.
        tokens: `data/tokens`.
    """
    distill = stage.params(Distill)

    def checkpoint() -> PreTrainedModel:
        encoder = student_base(stage.deps["base"])
        assert encoder is not None  # params name it, and ingest brought it
        return load_classifier(encoder, tokens.labels, tokens.task)

    return StudentBuilder(
        distill,
        stage.project.seed,
        tokens.pair,
        tokens.load_tokenizer,
        name=stage.name,
        checkpoint=checkpoint if distill.student.kind == "checkpoint" else None,
        kept_ids=tokens.student.kept_ids,
        rank=tokens.student.rank,
        general_dir=_general_dir(stage, distill),
        clock=stage.work,
    )


def save_student(tokens: TokenFolder, student: PreTrainedModel, folder: Path) -> None:
    """Write a student with `save_model`, and a static one also as `model2vec/` for `model2vec.StaticModel`."""
    save_model(student.cpu(), folder, tokens.student.tokenizer_dir)
    if student.config.model_type == STATIC:
        from potstill.models.students.static import save_static

        save_static(student, tokens.student.load_tokenizer(), folder / "model2vec")


def _general_dir(stage: Stage, distill: Distill) -> Path | None:
    """Return the folder of the general student, if there is one with the student's layers.

    The controls do not receive it, since general distillation uses a teacher.
    """
    folder = stage.deps.get("general")
    if folder is None or read_json(folder / MANIFEST)["about"]["layers"] != distill.layers:
        return None
    return folder
