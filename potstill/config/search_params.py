"""Section `search`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import Positive, Share, Strict
from potstill.config.term_params import DistTerm, Temperature, Term


class StaticSearch(Strict):
    """Static students (`distill.student` of kind static): their widths, and how each is trained."""

    # Widths to try, each a student; [] for none.
    dimensions: list[Annotated[int, Field(ge=2, le=4096)]] = [64, 256]
    epochs: Positive = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    batch_tokens: Annotated[int, Field(ge=16)] = 8192


class Search(Strict):
    """What `potstill search` tries: each trial is one distillation, on the cached signals, judged on dev."""

    trials: Positive = 20
    # tpe draws numbers between the least and the largest of a list, by what did well; grid tries all combinations.
    sampler: Literal["tpe", "grid"] = "tpe"
    # Ends a trial whose dev score is behind those of the others at the same point.
    pruner: Literal["median", "hyperband", "none"] = "median"
    # 2 and more: score by that many held-out parts of train in turn; 0: by dev.
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    # Dev evaluations of an epoch: where the pruner looks.
    evaluations_per_epoch: Positive = 4
    # Lists of teacher layers; null: a half, a third and a sixth of them, evenly spaced from the first.
    layers: (
        Annotated[list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]], Field(min_length=1)] | None
    ) = None
    temperature: Annotated[list[Temperature], Field(min_length=1)] = [1.0, 4.0]
    alpha: Annotated[list[Share], Field(min_length=1)] = [0.5, 1.0]
    learning_rate: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [5e-5, 2e-4]
    # Name -> losses beside that on logits, as distill.terms.
    losses: Annotated[dict[str, list[Term]], Field(min_length=1)] = {"kl": [], "kl and dist": [DistTerm(kind="dist")]}
    static: StaticSearch = StaticSearch()

    @model_validator(mode="after")
    def _judge_by_two_folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds is 1; set it to 2 or more, or to 0 to judge by dev")
        return self
