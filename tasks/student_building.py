"""What the stages of the student share: how it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from potstill.config.distill_params import Distill
from potstill.config.student_params import CheckpointStudent
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.tokenization import KEPT_IDS, load_tokenizer, student_base
from potstill.distillation.objective.gold_labels import Objective
from potstill.distillation.pruning import pruned
from potstill.models.loading import load_classifier, save_model
from potstill.models.students.kinds import start_student
from potstill.models.students.narrowing import Ints
from potstill.models.students.start import start_from_general
from potstill.models.students.vocabulary import trim_embeddings
from potstill.pretrained.inspection import STATIC
from potstill.progress import say
from tasks.learning import factorize_embeddings, student_tokens, task_kind, tokenizer_folder, tokens_info
from tasks.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def make_student(
    stage: Stage,
    parent: PreTrainedModel,
    rows: TokenDataset,
    objective: Objective,
    layers: Sequence[int] | None = None,
) -> PreTrainedModel:
    """The student that `distill` describes, with copies of a parent's weights where it starts from its parent.

    Args:
        stage: receives the section `distill`, `data/tokens` and `data/base`.
        parent: the fine-tuned teacher or an assistant, or for a control the pretrained base.
        rows: the student's training rows; with `objective`, what its units are judged by where it is pruned.
        objective: the loss of its logits.
        layers: of the parent; None: those of `distill`.

    Raises:
        ModelError: layers, sizes or a class that do not fit; see `potstill.models`.
    """
    distill = stage.params(Distill)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.project.seed)
        student = _start(stage, distill, parent, distill.layers if layers is None else layers)
    kept = student_tokens(stage) / KEPT_IDS
    if kept.exists():
        student = _trimmed(student, np.load(kept, allow_pickle=False))
    if distill.prune is not None:
        with stage.work("inference"):
            student = pruned(
                student, distill.prune, rows, objective,
                batch_tokens=distill.batch_tokens, seed=stage.project.seed, name=stage.name,
            )  # fmt: skip
    factorize_embeddings(stage, student, rows)
    return student


def save_student(stage: Stage, student: PreTrainedModel, folder: Path) -> None:
    """Write it as `save_model` does; a static one also as `model2vec/`, which `model2vec.StaticModel` loads."""
    tokenizer = tokenizer_folder(stage, student=True)
    save_model(student.cpu(), folder, tokenizer)
    if student.config.model_type == STATIC:
        from potstill.models.students.static import save_static

        save_static(student, load_tokenizer(tokenizer, tokens_info(stage)["max_length"]), folder / "model2vec")


def _trimmed(student: PreTrainedModel, kept: Ints) -> PreTrainedModel:
    if student.config.model_type == STATIC:
        kept_of: Callable[[Ints], PreTrainedModel] = student.keep
        return kept_of(kept)
    return trim_embeddings(student, kept.tolist())


def _start(stage: Stage, distill: Distill, parent: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    info = tokens_info(stage)
    student = start_student(
        distill.student, parent_of(stage, parent), layers, pair=bool(info["pair"]),
        tokenizer=lambda: load_tokenizer(tokenizer_folder(stage), info["max_length"]),
    )  # fmt: skip
    # The controls do without: what general distillation gives comes of a teacher.
    if "general" in stage.deps and start_from_general(student, layers, stage.deps["general"]):
        say(f"{stage.name}: the student starts from the general student, its head from the teacher")
    return student


def parent_of(stage: Stage, parent: PreTrainedModel) -> PreTrainedModel:
    """The model whose layers the student takes: its own checkpoint with a fresh head, or the parent."""
    if not isinstance(stage.params(Distill).student, CheckpointStudent):
        return parent
    own = student_base(stage.deps["base"])
    assert own is not None  # params say so, and ingest brought it
    return load_classifier(own, tokens_info(stage)["labels"], task_kind(stage))
