"""The weight of each term of the loss at each step of a run."""

from __future__ import annotations

from potstill.config.term_params import TermBase


def weight_at(term: TermBase, step: int, total: int) -> float:
    """Return the weight of a term at a step, by its schedule in params.

    Args:
        term: `constant` has its full weight at every step; `decay` falls linearly from the full weight at step 0 to 0
            at the end of the fraction; `warmup` rises linearly to the full weight at the last step of the fraction.
        step: optimizer step, counted from 0.
        total: optimizer steps of the run.
    """
    if term.schedule == "constant":
        return term.weight
    duration = term.fraction * total
    if term.schedule == "decay":
        return term.weight * max(1 - step / duration, 0.0)
    return term.weight * min((step + 1) / duration, 1.0)


def lasts_to_the_end(term: TermBase) -> bool:
    """Whether the weight of a term is above 0 at every step of a run."""
    return term.schedule != "decay" or term.fraction == 1
