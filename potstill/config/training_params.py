"""What all sections of stages that train have in common."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import Positive, Share, Strict, Switch


class Adversarial(Strict):
    """FGM: each batch once more, its token embeddings moved where the loss rises fastest."""

    # Length of a row's step over all its tokens.
    epsilon: Annotated[float, Field(gt=0)] = 1.0
    weight: Annotated[float, Field(gt=0)] = 1.0


class Mixup(Strict):
    """MixKD: each batch once more, its rows' token embeddings blended in pairs, for a live teacher to answer."""

    # Of Beta(alpha, alpha), from which a row's share of its blend is drawn.
    alpha: Annotated[float, Field(gt=0)] = 0.4
    weight: Annotated[float, Field(gt=0)] = 1.0


LoraTarget = Literal["query", "key", "value", "qkv", "attention_out", "ffn_in", "ffn_out"]


class Lora(Strict):
    """Low-rank adaptation: linear layers learn a product of two thin matrices, which is added to them in the end."""

    # Of the product, which is scaled by alpha / rank.
    rank: Positive = 8
    alpha: Positive = 16
    # Of what the product takes in.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # The linear layers of every layer; null: queries and values, or the one that makes both.
    targets: Annotated[list[LoraTarget], Field(min_length=1)] | None = None


class Training(Strict):
    """One training run. AdamW, linear warm-up and decay, batches of similar length under a token budget."""

    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    # Padded tokens of one batch (rows x longest row).
    batch_tokens: Annotated[int, Field(ge=16)] = 1024
    # Such batches of one optimizer step: their gradients add up to exactly those of one large batch.
    accumulate: Positive = 1
    warmup: Share = 0.06
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    # Dropout of hidden states and attention; null keeps the model's own. 0 is faster, and a student that copies soft
    # targets has less to overfit.
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    # Leave the token embeddings as they start: less to update, and rare tokens keep their pretrained meaning.
    freeze_embeddings: bool = False
    # Train low-rank matrices and the head instead of all weights; null: all weights.
    lora: Lora | None = None
    # Decay a step of the weights' moving average, which is then what dev judges and what is kept; null: no average.
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    # Dev evaluations without a better score after which training stops; null: never.
    patience: Positive | None = None
    # Evaluations whose mean has to rise for that: above 1, a lucky or unlucky one alone decides nothing.
    patience_window: Positive = 1
    evaluations_per_epoch: Positive = 1
    # Seconds between checkpoints; the newest that verifies is where an interrupted run goes on.
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 30
    # Layers run on real tokens alone; auto: on a GPU, where its attention can.
    packing: Switch = "auto"
    # torch.compile; auto: on a GPU, where a measurement says that the run ends earlier for it.
    compile: Switch = "auto"
    # Of the loss, further passes on the same rows; null: none.
    adversarial: Adversarial | None = None

    @model_validator(mode="after")
    def _compile_what_stays(self) -> Self:
        if self.compile is True and (self.packing is True or self.adversarial is not None):
            other = "packing is true" if self.packing is True else "adversarial steps change the model's passes"
            raise ValueError(f"compile is true, but {other}; set compile to auto or false")
        return self
