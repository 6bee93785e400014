"""Sections `pretrain`, `teacher` and `signals`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import LayerNumbers, LearningRate, Strict
from potstill.config.training_params import Training


class Pretrain(Training):
    """Masked language modelling (BERT) of a new encoder, if `ingest.teacher` is of kind scratch.

    The texts are those of train and transfer, never of dev or test. What exceeds `max_length` makes further rows.
    """

    epochs: PositiveInt = 10
    """Passes over the texts."""
    learning_rate: LearningRate = 5e-4
    """Highest learning rate, reached at the end of the warm-up."""
    vocabulary: int = Field(8000, ge=50)
    """WordPiece tokens of the new tokenizer, at most."""
    min_frequency: PositiveInt = 2
    """How often a character or a word piece has to occur to become a token."""
    lowercase: bool = True
    """Whether the tokenizer lowercases texts."""
    layers: PositiveInt = 4
    """Layers of the encoder."""
    width: PositiveInt = 256
    """Width of its hidden states."""
    heads: PositiveInt = 4
    """Attention heads of a layer. The number has to divide the width."""
    max_length: int = Field(128, ge=8, le=8192)
    """Positions of the encoder: its longest sequence in tokens."""
    masked: float = Field(0.15, gt=0, le=0.5)
    """Share of the tokens to predict. Of these 80% are masked, 10% are replaced at random, and 10% stay."""
    held_out: float = Field(0.02, gt=0, lt=1)
    """Share of the texts held out to measure how well the encoder predicts."""

    @model_validator(mode="after")
    def _divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, which does not divide width ({self.width}); choose one that does")
        return self


# A teacher's name for a label, or for a type of entity -> the data's name.
LabelMap = Annotated[dict[str | int, str | int], Field(min_length=1)]


class Member(Strict):
    """A further teacher of `ingest.teachers`, taken as it is or fine-tuned with the settings of `teacher`."""

    fine_tuned: bool = False
    """Whether this model is fine-tuned already. false: it is fine-tuned here."""
    weight: PositiveFloat = 1.0
    """Weight of its probabilities in the mean that the student learns, relative to the others'."""
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    """Labels of a multi_label task that it answers. null: all."""
    label_map: LabelMap | None = None
    """Its label names -> the data's, for a fine-tuned model whose names differ. null: the names are equal."""

    @model_validator(mode="after")
    def _fit_the_label_map(self) -> Self:
        _check_label_map(self.label_map, fine_tuned=self.fine_tuned)
        return self


def _check_label_map(label_map: Mapping[str | int, str | int] | None, *, fine_tuned: bool) -> None:
    """Refuse a map for a model that is not fine-tuned yet, and one that is not one to one."""
    if label_map is None:
        return
    if not fine_tuned:
        raise ValueError(
            "label_map is for a teacher that is fine-tuned already, but fine_tuned is false; set label_map to null"
        )
    values = [str(label) for label in label_map.values()]
    repeated = next((label for label in values if values.count(label) > 1), None)
    if repeated is not None:
        raise ValueError(f"label_map maps two of the teacher's labels to {repeated!r}; map each to a different one")


class Teacher(Training):
    """Fine-tuning of the teacher, or the check of one that is fine-tuned already.

    With `seeds` or `members` several models teach as an ensemble. The student starts from the layers of the first one.
    """

    fine_tuned: bool = False
    """Whether ingest.teacher is fine-tuned already: its labels are checked and nothing is trained."""
    seeds: PositiveInt = 1
    """Runs of the fine-tuning, which teach together. Their seeds are project.seed, the next, and so on."""
    weight: PositiveFloat = 1.0
    """Weight of ingest.teacher in the mean that the student learns, relative to that of members; its seeds share it."""
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    """Labels of a multi_label task that ingest.teacher answers. null: all."""
    label_map: LabelMap | None = None
    """The teacher's label names -> the data's, if it is fine-tuned and the names differ: `{1 star: 1, 2 stars: 2}`.
    null: the names are equal."""
    members: dict[str, Member] = {}
    """Further teachers, by their names in ingest.teachers."""

    @model_validator(mode="after")
    def _fit_the_label_map(self) -> Self:
        _check_label_map(self.label_map, fine_tuned=self.fine_tuned)
        return self

    @model_validator(mode="after")
    def _train_each_seed(self) -> Self:
        if self.fine_tuned and self.seeds > 1:
            raise ValueError(
                f"seeds is {self.seeds}, but fine_tuned is true and nothing is trained; set fine_tuned to false or "
                "seeds to 1"
            )
        return self


class Signals(Strict):
    """The teacher's outputs over train and transfer: what is stored of them, and in which form.

    Layers are stored for losses between layers; then no teacher runs while a student learns.
    """

    dtype: Literal["float32", "float16"] = "float32"
    """Number format of the files. float16 halves them; the manifest's `about.fidelity` says what that costs: rounding
    errors, KL of the stored softmax at T 1, 2 and 4, and the share of changed answers."""
    batch_tokens: int = Field(1024, ge=16)
    """Size of a batch of the teacher in padded tokens. 1024 is twice as fast as 8192 on one core and as fast on two; a
    GPU is faster with 8192 and more."""
    shard_rows: PositiveInt = 4096
    """Rows of one file. An interrupted run resumes after the files that are finished."""
    hidden: LayerNumbers = []
    """Hidden states stored for every token, for the losses `hidden` and `cosine`. Their sentence vectors serve `pkd`,
    `rkd` and `contrastive` too."""
    attention: list[PositiveInt] = []
    """Layers whose queries, keys and values are stored for every token, for `attention` and `relations`."""
    vectors: LayerNumbers = []
    """Hidden states of which only the first token's and the mean are stored, for `pkd`, `rkd` and `contrastive`."""

    @model_validator(mode="after")
    def _name_layers_once(self) -> Self:
        for key in ("hidden", "attention", "vectors"):
            numbers = getattr(self, key)
            if len(set(numbers)) != len(numbers):
                raise ValueError(f"{key} is {numbers}, which names a layer twice; remove one")
        return self
