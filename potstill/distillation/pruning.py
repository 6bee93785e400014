"""A student made narrower before it learns: the parts stay whose loss would cost most (`distill.prune`)."""

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
    """The student with the parts that matter most to the loss; what stays is said.

    Args:
        student: of a class in `families.FAMILIES`.
        prune: how much stays, and how many rows judge it.
        rows: the training rows, which the objective knows by their numbers.
        objective: the loss of its logits.
        batch_tokens: padded tokens of one batch.
        seed: of the choice of rows.
        name: of the stage, for what is said.

    Raises:
        ModelError: more is to stay than there is, or a part of an attention head.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    sample = np.sort(order[: prune.rows])
    found = measure_importance(student, rows, objective, batch_tokens=batch_tokens, rows=sample)

    def tell(what: str, kept: Sequence[Ints], of: Sequence[Floats]) -> None:
        share = sum(float(part[chosen].sum()) for part, chosen in zip(of, kept, strict=True))
        whole = max(sum(float(part.sum()) for part in of), 1e-30)
        sizes = f"{len(kept[0])} of {len(of[0])} {what}"
        say(f"{name}: {sizes} stay, with {share / whole:.1%} of their importance over {len(sample):,} rows")

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
