"""What a student is made of: `distill.student` and `distill.prune`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from potstill.config.base import Strict


class LayersStudent(Strict):
    """The teacher's class, with copies of its embeddings, `distill.layers`, pooler and head."""

    kind: Literal["layers"]


class DistilBertStudent(Strict):
    """A DistilBERT with copies of a BERT teacher's embeddings, `distill.layers` and head; for single texts only.

    DistilBERT has no token types, so pairs are refused.
    """

    kind: Literal["distilbert"]


class CheckpointStudent(Strict):
    """`distill.layers` of the encoder that `ingest.student` names, with that encoder's tokenizer and a new head."""

    kind: Literal["checkpoint"]


class ConfigStudent(Strict):
    """The teacher's class with random weights and as many layers as `distill.layers` names."""

    kind: Literal["config"]
    hidden_size: PositiveInt | None = None
    """Width of the hidden states. null: the teacher's."""
    heads: PositiveInt | None = None
    """Attention heads of a layer. null: as many as the teacher's."""
    intermediate_size: PositiveInt | None = None
    """Feed-forward units of a layer. null: the teacher's."""


class StaticStudent(Strict):
    """A vector for each token, made from the teacher's output for that token alone; their mean and one linear layer.

    `distill.layers` is not used. It is many times faster and ignores the order of words. It needs a learning rate and
    epochs of its own, as `search.static` has them, and so do its controls.
    """

    kind: Literal["static"]
    dimensions: int = Field(256, ge=2, le=4096)
    """Width of the vectors, at most the teacher's."""


StudentKind = Annotated[
    LayersStudent | DistilBertStudent | CheckpointStudent | ConfigStudent | StaticStudent, Field(discriminator="kind")
]


class Prune(Strict):
    """A narrower student: before it learns, the parts are removed whose loss costs least."""

    ffn: PositiveInt | None = None
    """Feed-forward units that each layer keeps. null: all."""
    width: PositiveInt | None = None
    """Width of the hidden states that remains, a multiple of a head's size. Each layer keeps as many attention heads as
    fit into it. null: all."""
    rows: PositiveInt = 2048
    """Training rows over which importance is measured."""

    @model_validator(mode="after")
    def _prune_something(self) -> Self:
        if self.ffn is None and self.width is None:
            raise ValueError("sets neither ffn nor width, so nothing would be pruned; set one, or set prune to null")
        return self
