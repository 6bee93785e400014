"""Sections `pretrain`, `teacher` and `signals`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import LayerNumbers, Positive, Strict
from potstill.config.training_params import Training


class Pretrain(Training):
    """Masked language modelling (BERT) of a new encoder, where `ingest.teacher` is `kind: scratch`.

    The texts are those of train and transfer, never of dev or test; what is beyond `max_length` makes further rows.
    """

    epochs: Positive = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    # WordPiece tokens at most, and how often a character or a piece has to occur to be one.
    vocabulary: Annotated[int, Field(ge=50)] = 8000
    min_frequency: Positive = 2
    lowercase: bool = True
    # The encoder: layers, width, attention heads (which divide the width), and its positions.
    layers: Positive = 4
    width: Positive = 256
    heads: Positive = 4
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    # Share of the tokens to predict: 80% of them are masked, 10% replaced at random, 10% left as they are.
    masked: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    # Share of the texts held out to see how well it predicts.
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @model_validator(mode="after")
    def _divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width} and heads {self.heads}; take a number of heads that divides it")
        return self


# A teacher's name for a label, or its type of entity -> the data's.
LabelMap = Annotated[dict[str | int, str | int], Field(min_length=1)]


class Member(Strict):
    """A further teacher of `ingest.teachers`: as it is, or fine-tuned under the teacher's plan."""

    fine_tuned: bool = False
    # Relative to the others': the probabilities that teach are the weighted mean.
    weight: Annotated[float, Field(gt=0)] = 1.0
    # Of a multi_label task, those that it answers; null: all.
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    # Of one that is fine-tuned already: which of the data's labels its own are, where their names differ.
    label_map: LabelMap | None = None

    @model_validator(mode="after")
    def _map_names_that_it_has(self) -> Self:
        _check_label_map(self.label_map, fine_tuned=self.fine_tuned)
        return self


def _check_label_map(label_map: Mapping[str | int, str | int] | None, *, fine_tuned: bool) -> None:
    if label_map is None:
        return
    if not fine_tuned:
        raise ValueError(
            "label_map is of a teacher that is fine-tuned already, fine_tuned is false; set label_map to null"
        )
    values = [str(label) for label in label_map.values()]
    twice = next((label for label in values if values.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"label_map gives two labels of the teacher to {twice!r}; map each to another")


class Teacher(Training):
    """Fine-tuning of the teacher; `fine_tuned: true` takes it as it is after its labels are verified.

    With `seeds` or `members` several models teach, as an ensemble; the student starts from the first one's layers.
    """

    fine_tuned: bool = False
    # Runs of the fine-tuning, each with a seed of its own: project.seed, the next, ...
    seeds: Positive = 1
    # Of `ingest.teacher`, shared by its seeds; the labels of a multi_label task that it answers, null: all.
    weight: Annotated[float, Field(gt=0)] = 1.0
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    # Which of the data's labels its own are, where their names differ: {"1 star": 1, "2 stars": 2}.
    label_map: LabelMap | None = None
    # By their names in `ingest.teachers`.
    members: dict[str, Member] = {}

    @model_validator(mode="after")
    def _map_names_that_it_has(self) -> Self:
        _check_label_map(self.label_map, fine_tuned=self.fine_tuned)
        return self

    @model_validator(mode="after")
    def _train_more_than_one_seed(self) -> Self:
        if self.fine_tuned and self.seeds > 1:
            raise ValueError(
                f"seeds is {self.seeds} of a teacher that is taken as it is; set fine_tuned to false or seeds to 1"
            )
        return self


class Signals(Strict):
    """The teacher's outputs over train and transfer."""

    dtype: Literal["float32", "float16"] = "float32"
    batch_tokens: Annotated[int, Field(ge=16)] = 1024
    # Of one file; an interrupted run goes on behind the files it finished.
    shard_rows: Positive = 4096
    # Beside logits, for losses on layers without a live teacher: hidden states of every token; queries, keys and
    # values of a layer's attention; of hidden states the first token's and the mean alone (pkd, rkd, contrastive).
    hidden: LayerNumbers = []
    attention: list[Positive] = []
    vectors: LayerNumbers = []

    @model_validator(mode="after")
    def _name_layers_once(self) -> Self:
        for key in ("hidden", "attention", "vectors"):
            numbers = getattr(self, key)
            if len(set(numbers)) != len(numbers):
                raise ValueError(f"{key} {numbers} names a layer twice; remove one")
        return self
