"""What all sections of stages that train have in common."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import LearningRate, Share, Strict, Switch


class Adversarial(Strict):
    """FGM (Miyato et al. 2017): a second pass on each batch, with token embeddings moved along the loss's gradient.

    The teacher's signals stay those of the rows. A step takes twice the time.
    """

    epsilon: PositiveFloat = 1.0
    """Length of the move of a row, over all its tokens."""
    weight: PositiveFloat = 1.0
    """Weight of the second pass in the loss."""


class Mixup(Strict):
    """MixKD (Liang et al. 2021): a second pass on each batch, with the token embeddings of pairs of rows blended.

    The teacher runs live on each blend.
    """

    alpha: PositiveFloat = 0.4
    """Shape of the distribution Beta(alpha, alpha) from which a row's share of its blend is drawn."""
    weight: PositiveFloat = 1.0
    """Weight of the second pass in the loss."""


LoraTarget = Literal["query", "key", "value", "qkv", "attention_out", "ffn_in", "ffn_out"]


class Lora(Strict):
    """Low-rank adaptation (Hu et al. 2021): chosen linear layers learn a product of two thin matrices.

    The product is added to the weights at the end.
    """

    rank: PositiveInt = 8
    """Rank of the product."""
    alpha: PositiveInt = 16
    """Scale of the product: it is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the product's input."""
    targets: Annotated[list[LoraTarget], Field(min_length=1)] | None = None
    """Linear layers to adapt in every layer of the encoder; ModernBERT has `qkv` for `query`, `key` and `value`. null:
    queries and values, or `qkv`."""


class Training(Strict):
    """One training run with AdamW, linear warm-up and decay, and batches of rows of similar length."""

    epochs: PositiveInt
    """Passes over the training rows."""
    learning_rate: LearningRate
    """Highest learning rate, reached at the end of the warm-up."""
    batch_tokens: int = Field(1024, ge=16)
    """Size of a batch in padded tokens: rows times the tokens of the longest row."""
    accumulate: PositiveInt = 1
    """Batches of one optimizer step. Their gradients add up to exactly those of one large batch."""
    warmup: Share = 0.06
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """Weight decay of AdamW."""
    clip_norm: PositiveFloat = 1.0
    """Norm that gradients are clipped to."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout of hidden states and attention. null: the model's own. 0 is faster, and a student that learns soft
    targets overfits less."""
    freeze_embeddings: bool = False
    """Whether token embeddings stay as they are: steps are faster, and rare tokens keep their meaning."""
    freeze_layers: NonNegativeInt = 0
    """The lowest layers that stay as they are, with all embeddings. Half of the layers frozen makes a step a third
    faster; the model then adapts less to the task."""
    lora: Lora | None = None
    """Train low-rank matrices and the head instead of all weights. null: train all weights."""
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay, at each step, of a moving average of the weights; dev then scores the average, and the average is saved.
    0.99 averages about the last hundred steps. null: no average."""
    patience: PositiveInt | None = None
    """Evaluations without a better score on dev after which training stops. The best weights are saved in any case.
    null: train for all epochs."""
    patience_window: PositiveInt = 1
    """Evaluations whose mean score patience compares, so that a single lucky or unlucky one does not decide."""
    evaluations_per_epoch: PositiveInt = 1
    """Evaluations on dev in each epoch."""
    checkpoint_seconds: PositiveFloat = 30
    """Seconds between checkpoints. An interrupted run resumes from the newest intact one."""
    packing: Switch = "auto"
    """Whether layers compute real tokens only, with the rows of a batch end to end and no padding. auto: on a GPU in
    bf16 or fp16, without dropout, for BERT, RoBERTa, ELECTRA and DistilBERT classes. true gives the same result
    elsewhere, but slowly."""
    compile: Switch = "auto"
    """Whether to use `torch.compile`. auto: on a GPU, for a run long enough to win back the time that compiling takes,
    as measured once on a machine."""
    adversarial: Adversarial | None = None
    """Add a pass with adversarial token embeddings to each step. null: none."""

    @model_validator(mode="after")
    def _freeze_layers_without_lora(self) -> Self:
        if self.lora is not None and self.freeze_layers:
            raise ValueError(
                f"freeze_layers is {self.freeze_layers}, but lora adapts every layer and freezes all other weights; "
                "set freeze_layers to 0, or lora to null"
            )
        return self

    @model_validator(mode="after")
    def _compile_an_unchanged_forward_pass(self) -> Self:
        if self.compile is True and (self.packing is True or self.adversarial is not None):
            reason = "packing is true" if self.packing is True else "adversarial steps change the model's forward pass"
            raise ValueError(f"compile is true, but {reason}; set compile to auto or false")
        return self
