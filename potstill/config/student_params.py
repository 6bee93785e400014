"""What a student is made of: `distill.student` and `distill.prune`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import Positive, Strict


class LayersStudent(Strict):
    """The teacher's class, with copies of its embeddings, `distill.layers`, pooler and head."""

    kind: Literal["layers"]


class DistilBertStudent(Strict):
    """A DistilBERT with copies of a BERT's embeddings, `distill.layers` and head; for single texts."""

    kind: Literal["distilbert"]


class CheckpointStudent(Strict):
    """`distill.layers` of the encoder that `ingest.student` names, with its own tokenizer and a fresh head."""

    kind: Literal["checkpoint"]


class ConfigStudent(Strict):
    """The teacher's class at random, with as many layers as `distill.layers` names; null: the teacher's size."""

    kind: Literal["config"]
    hidden_size: Positive | None = None
    heads: Positive | None = None
    intermediate_size: Positive | None = None


class StaticStudent(Strict):
    """A vector for each token, made of the teacher's, their mean, one linear layer; `distill.layers` is not used."""

    kind: Literal["static"]
    # Width of the vectors; at most the teacher's.
    dimensions: Annotated[int, Field(ge=2, le=4096)] = 256


StudentKind = Annotated[
    LayersStudent | DistilBertStudent | CheckpointStudent | ConfigStudent | StaticStudent, Field(discriminator="kind")
]


class Prune(Strict):
    """A narrower student: the parts stay whose loss would cost most, before it learns."""

    # Feed-forward units kept in each layer; null: all.
    ffn: Positive | None = None
    # States kept, and of every layer as many attention heads as have that many together; null: all.
    width: Positive | None = None
    # Rows of the training data over which importance is measured.
    rows: Positive = 2048

    @model_validator(mode="after")
    def _take_something(self) -> Self:
        if self.ffn is None and self.width is None:
            raise ValueError("names neither ffn nor width, so nothing would be removed; set one, or prune to null")
        return self
