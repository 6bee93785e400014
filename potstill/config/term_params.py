"""Terms that `distill.terms` adds to the loss, a class for each kind."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import LayerNumbers, Strict


class TermBase(Strict):
    """A term of the loss, with a weight and a schedule of that weight."""

    weight: PositiveFloat = 1.0
    """Weight of the term."""
    schedule: Literal["constant", "decay", "warmup"] = "constant"
    """How the weight changes over the run. decay: falls linearly to 0 over the first `fraction` of the steps; warmup:
    rises linearly from 0 over it."""
    fraction: float = Field(1.0, gt=0, le=1)
    """Share of the steps over which the schedule changes the weight."""

    @model_validator(mode="after")
    def _use_the_fraction(self) -> Self:
        if self.schedule == "constant" and self.fraction != 1:
            raise ValueError(
                f"fraction is {self.fraction:g}, but schedule is constant; set schedule to decay or warmup"
            )
        return self


LayerPair = Annotated[LayerNumbers, Field(min_length=2, max_length=2)]


class LayerTerm(TermBase):
    """A loss between layers: the mean over the pairs of layers that are compared."""

    layers: Annotated[list[LayerPair], Field(min_length=1)] | None = None
    """Pairs [student layer, teacher layer] to compare. Hidden states are counted from 0, the input of the first layer;
    n is the output of the n-th layer. For `attention` and `relations`, n is the n-th layer. null: the last layer of
    each."""


Temperature = Annotated[float, Field(gt=0, le=100)]


class KlTerm(TermBase):
    """Softened logits: T² · KL(teacher || student at T), mean over the rows."""

    kind: Literal["kl"]
    temperature: Temperature = 2.0
    """Temperature T that softens the logits."""


class CeTerm(TermBase):
    """Cross-entropy with the gold labels, mean over the rows that have one."""

    kind: Literal["ce"]


class MseTerm(TermBase):
    """Squared difference of the logits, mean over rows and classes."""

    kind: Literal["mse"]


class DistTerm(TermBase):
    """DIST: 1 - correlation with the teacher, over the classes of a row and over the rows of a class."""

    kind: Literal["dist"]
    temperature: Temperature = 1.0
    """Temperature that softens the logits."""


class CosineTerm(LayerTerm):
    """1 - cosine of the hidden states, mean over real tokens."""

    kind: Literal["cosine"]


class HiddenTerm(LayerTerm):
    """Squared difference of the hidden states, mean over real tokens and width."""

    kind: Literal["hidden"]


class AttentionTerm(LayerTerm):
    """Difference of the attention maps, mean over real tokens and heads."""

    kind: Literal["attention"]
    loss: Literal["mse", "kl"] = "mse"
    """mse: squared difference of the attention scores; kl: KL divergence of the attention weights."""
    average_heads: bool = False
    """Whether to compare the mean over the heads, for models that differ in their number."""


class RelationsTerm(LayerTerm):
    """MiniLMv2: relations among queries, among keys and among values, mean over real tokens and relation heads."""

    kind: Literal["relations"]
    heads: PositiveInt = 48
    """Relation heads, independent of the models' attention heads. The number has to divide both widths."""


class PkdTerm(LayerTerm):
    """PKD: squared difference of the first token's states, scaled to length 1, mean over the rows."""

    kind: Literal["pkd"]


class RkdTerm(LayerTerm):
    """RKD: distances between the rows of a batch, and with twice the weight angles between them, mean over the rows."""

    kind: Literal["rkd"]


class ContrastiveTerm(LayerTerm):
    """A row's vector is drawn to the teacher's of the same row, away from those of the batch's other rows (InfoNCE)."""

    kind: Literal["contrastive"]
    temperature: Temperature = 0.1
    """Temperature of the softmax over the rows of a batch."""


Term = Annotated[
    KlTerm
    | CeTerm
    | MseTerm
    | DistTerm
    | CosineTerm
    | HiddenTerm
    | AttentionTerm
    | RelationsTerm
    | PkdTerm
    | RkdTerm
    | ContrastiveTerm,
    Field(discriminator="kind"),
]
