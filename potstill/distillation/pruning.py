"""Structured pruning of a student before it learns: keep the parts that matter most to the loss (`distill.prune`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from potstill.config.student_params import Prune
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.importance import Floats, measure_importance
from potstill.distillation.objective.gold_labels import Objective
from potstill.errors import ModelError
from potstill.models.students.narrowing import Ints, head_size, most_important, narrow, narrow_states
from potstill.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pruned(
    student: PreTrainedModel,
    prune: Prune,
    rows: TokenDataset,
    objective: Objective,
    *,
    batch_tokens: int,
    seed: int,
    name: str,
) -> PreTrainedModel:
    """Prune a student to the sizes in params, and print how much of the importance is kept.

    Args:
        student: a model of a class in `families.FAMILIES`.
        prune: the sizes to keep, and the number of rows on which importance is measured.
        rows: the training rows, by whose numbers the objective reads signals.
        objective: a loss on logits.
        batch_tokens: padded tokens of a batch.
        seed: seed of the choice of rows.
        name: name of the stage, for messages.

    Raises:
        ModelError: a size is larger than the student's, or no multiple of the size of an attention head.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    sample = np.sort(order[: prune.rows])
    importance = measure_importance(student, rows, objective, batch_tokens=batch_tokens, rows=sample)

    def report(what: str, kept: Sequence[Ints], layers: Sequence[Floats]) -> None:
        kept_sum = sum(float(layer[indices].sum()) for layer, indices in zip(layers, kept, strict=True))
        total = max(sum(float(layer.sum()) for layer in layers), 1e-30)
        sizes = f"{len(kept[0])} of {len(layers[0])} {what}"
        say(f"{name}: {sizes} stay, with {kept_sum / total:.1%} of their importance over {len(sample):,} rows")

    if prune.ffn is not None:
        what = "feed-forward units of each layer (distill.prune.ffn)"
        units = [most_important(layer, prune.ffn, what) for layer in importance.units]
        report("feed-forward units of each layer", units, importance.units)
        student = narrow(student, units)
    if prune.width is not None:
        count, remainder = divmod(prune.width, head_size(student))
        if remainder:
            raise ModelError(
                f"distill.prune.width is {prune.width}, no multiple of the {head_size(student)} states of an "
                "attention head; set one"
            )
        states = most_important(importance.states, prune.width, "states (distill.prune.width)")
        heads = [most_important(layer, count, "attention heads") for layer in importance.heads]
        report("states", [states], [importance.states])
        report("attention heads of each layer", heads, importance.heads)
        student = narrow_states(student, states, heads)
    return student
