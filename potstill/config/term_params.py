"""Terms that `distill.terms` adds to the loss, one class for each kind."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import Positive, Strict


class TermBase(Strict):
    """A loss beside that of logits: `kind` and `weight`, which a schedule lowers or raises over the run."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    # decay: linear to 0 over the first `fraction` of the steps; warmup: linear to the weight over it.
    schedule: Literal["constant", "decay", "warmup"] = "constant"
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _give_a_fraction_a_schedule(self) -> Self:
        if self.schedule == "constant" and self.fraction != 1:
            raise ValueError(f"fraction is {self.fraction:g} of a constant schedule; set schedule to decay or warmup")
        return self


class LayerTerm(TermBase):
    """A loss between layers, the mean over the map's pairs [student, teacher].

    Hidden states are counted from 0, what the first layer takes in; n is what the n-th layer gives. Where a loss is on
    attention, n is the n-th layer's. null: the last with the last.
    """

    layers: (
        Annotated[
            list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]], Field(min_length=1)
        ]
        | None
    ) = None


Temperature = Annotated[float, Field(gt=0, le=100)]


class KlTerm(TermBase):
    """T^2 * KL(teacher || student at T), mean over the rows."""

    kind: Literal["kl"]
    temperature: Temperature = 2.0


class CeTerm(TermBase):
    """Cross-entropy with the gold labels, mean over the rows that have one."""

    kind: Literal["ce"]


class MseTerm(TermBase):
    """Squared difference of the logits, mean over rows and classes."""

    kind: Literal["mse"]


class DistTerm(TermBase):
    """DIST: 1 - correlation with the teacher over the classes of a row, and over the rows of a class."""

    kind: Literal["dist"]
    temperature: Temperature = 1.0


class CosineTerm(LayerTerm):
    """1 - cosine of the hidden states, mean over real tokens."""

    kind: Literal["cosine"]


class HiddenTerm(LayerTerm):
    """Squared difference of the hidden states, mean over real tokens and width."""

    kind: Literal["hidden"]


class AttentionTerm(LayerTerm):
    """Difference of the attention maps, mean over real tokens and heads: mse of the scores, or KL of what they give."""

    kind: Literal["attention"]
    loss: Literal["mse", "kl"] = "mse"
    # For models whose head counts differ.
    average_heads: bool = False


class RelationsTerm(LayerTerm):
    """MiniLMv2: how queries, keys and values are related among themselves, mean over real tokens and relation heads."""

    kind: Literal["relations"]
    # They divide both widths; not the models' own heads.
    heads: Positive = 48


class PkdTerm(LayerTerm):
    """PKD: squared difference of the first token's states, each of length 1, mean over the rows."""

    kind: Literal["pkd"]


class RkdTerm(LayerTerm):
    """RKD: distances between a batch's rows, and angles among them with twice the weight, mean over the rows."""

    kind: Literal["rkd"]


class ContrastiveTerm(LayerTerm):
    """A row's vector nearer to the teacher's of the same row than to the batch's others, mean over the rows."""

    kind: Literal["contrastive"]
    temperature: Temperature = 0.1


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
