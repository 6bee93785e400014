"""What the stages of the student share: how it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from potstill.config import CheckpointStudent, ConfigStudent, DistilBertStudent, Distill, Prune, StaticStudent
from potstill.data.batches import TokenDataset
from potstill.data.tokenization import KEPT, load_tokenizer, student_base
from potstill.distillation.importance import Floats, measure_importance
from potstill.distillation.objective import Objective
from potstill.errors import ModelError
from potstill.models.loading import STATIC, load_classifier, save_model
from potstill.models.narrowing import Ints, head_size, most_important, narrow, narrow_states
from potstill.models.start import start_from_general
from potstill.models.student import distilbert_from_bert, student_at_random, student_from_layers
from potstill.models.vocabulary import trim_embeddings
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
    kept = student_tokens(stage) / KEPT
    if kept.exists():
        student = _trimmed(student, np.load(kept, allow_pickle=False))
    if distill.prune is not None:
        student = _pruned(stage, distill, distill.prune, student, rows, objective)
    factorize_embeddings(stage, student, rows)
    return student


def save_student(stage: Stage, student: PreTrainedModel, folder: Path) -> None:
    """Write it as `save_model` does; a static one also as `model2vec/`, which `model2vec.StaticModel` loads."""
    tokenizer = tokenizer_folder(stage, student=True)
    save_model(student.cpu(), folder, tokenizer)
    if student.config.model_type == STATIC:
        from potstill.models.static import save_static

        save_static(student, load_tokenizer(tokenizer, tokens_info(stage)["max_length"]), folder / "model2vec")


def _trimmed(student: PreTrainedModel, kept: Ints) -> PreTrainedModel:
    if student.config.model_type == STATIC:
        kept_of: Callable[[Ints], PreTrainedModel] = student.keep
        return kept_of(kept)
    return trim_embeddings(student, kept.tolist())


def _pruned(
    stage: Stage, distill: Distill, prune: Prune, student: PreTrainedModel, rows: TokenDataset, objective: Objective
) -> PreTrainedModel:
    """The student with the parts that matter most to the loss."""
    order = np.random.default_rng(stage.project.seed).permutation(len(rows))
    sample = rows.select(np.sort(order[: prune.rows]))
    with stage.work("inference"):
        found = measure_importance(student, sample, objective, batch_tokens=distill.batch_tokens)

    def tell(what: str, kept: Sequence[Ints], of: Sequence[Floats]) -> None:
        share = sum(float(part[chosen].sum()) for part, chosen in zip(of, kept, strict=True))
        whole = max(sum(float(part.sum()) for part in of), 1e-30)
        sizes = f"{len(kept[0])} of {len(of[0])} {what}"
        say(f"{stage.name}: {sizes} stay, with {share / whole:.1%} of their importance over {len(sample):,} rows")

    if prune.ffn is not None:
        what = "feed-forward units of each layer (distill.prune.ffn)"
        units = [most_important(layer, prune.ffn, what) for layer in found.units]
        tell("feed-forward units of each layer", units, found.units)
        student = narrow(student, units)
    if prune.width is not None:
        count, rest = divmod(prune.width, head_size(student))
        if rest:
            raise ModelError(
                f"distill.prune.width is {prune.width}, no multiple of the {head_size(student)} states of an "
                "attention head; set one"
            )
        states = most_important(found.states, prune.width, "states (distill.prune.width)")
        heads = [most_important(layer, count, "attention heads") for layer in found.heads]
        tell("states", [states], [found.states])
        tell("attention heads of each layer", heads, found.heads)
        student = narrow_states(student, states, heads)
    return student


def _start(stage: Stage, distill: Distill, parent: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    kind = distill.student
    if isinstance(kind, DistilBertStudent):
        return distilbert_from_bert(parent, layers, pair=bool(tokens_info(stage)["pair"]))
    if isinstance(kind, StaticStudent):
        from potstill.models.static import static_from_teacher

        tokenizer = load_tokenizer(tokenizer_folder(stage), tokens_info(stage)["max_length"])
        return static_from_teacher(parent, tokenizer, kind.dimensions)
    if isinstance(kind, ConfigStudent):
        sizes = kind.model_dump(exclude={"kind"})
        return student_at_random(parent, len(layers), **sizes)
    student = student_from_layers(parent_of(stage, parent), layers)
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
