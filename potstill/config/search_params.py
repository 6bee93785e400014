"""Section `search`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from potstill.config.base import Layers, LearningRate, Share, Strict
from potstill.config.term_params import DistTerm, Temperature, Term


class StaticSearch(Strict):
    """Static students (`distill.student` of kind static): which widths to try, and how each student is trained."""

    dimensions: list[Annotated[int, Field(ge=2, le=4096)]] = [64, 256]
    """Widths to try, a student each. []: no static students."""
    epochs: PositiveInt = 10
    """Passes over the training rows."""
    learning_rate: LearningRate = 0.005
    """Highest learning rate, reached at the end of the warm-up."""
    batch_tokens: int = Field(8192, ge=16)
    """Size of a batch in padded tokens."""


class Search(Strict):
    """What `potstill search` tries: each trial is one distillation from the stored signals, scored on dev."""

    trials: PositiveInt = 20
    """Trials in all. A larger number adds to a finished search."""
    sampler: Literal["tpe", "grid"] = "tpe"
    """tpe: draws numbers between the smallest and the largest of a list, near those that did well; grid: tries all
    combinations of the lists."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Rule that ends a trial whose dev score is below those of the others at the same point."""
    folds: int = Field(0, ge=0, le=20)
    """Parts of train that are held out in turn to score a trial, at least 2. 0: score on dev."""
    evaluations_per_epoch: PositiveInt = 4
    """Evaluations in each epoch, after which the pruner decides."""
    layers: Annotated[list[Layers], Field(min_length=1)] | None = None
    """Lists of teacher layers to try. null: a half, a third and a sixth of them, evenly spaced from the first."""
    temperature: list[Temperature] = Field([1.0, 4.0], min_length=1)
    """Values of distill.temperature to try."""
    alpha: list[Share] = Field([0.5, 1.0], min_length=1)
    """Values of distill.alpha to try."""
    learning_rate: list[LearningRate] = Field([5e-5, 2e-4], min_length=1)
    """Values of distill.learning_rate to try."""
    losses: dict[str, list[Term]] = Field({"kl": [], "kl and dist": [DistTerm(kind="dist")]}, min_length=1)
    """Sets of further losses to try, by a name of your choice. A set is a list as in distill.terms."""
    static: StaticSearch = StaticSearch()
    """Static students to try."""

    @model_validator(mode="after")
    def _hold_out_two_folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds is 1; set it to 2 or more, or to 0 to score on dev")
        return self
