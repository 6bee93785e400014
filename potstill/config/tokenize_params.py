"""Section `tokenize`: token ids and the student's vocabulary."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from potstill.config.base import Positive, Share, Strict


class Vocabulary(Strict):
    """The student's own vocabulary: special tokens, single characters, and what train and transfer use most."""

    # All of these together; null: no limit.
    max_tokens: Positive | None = None
    # A token seen less often is dropped; texts that have it are split into shorter ones.
    min_count: Positive = 1
    # Dropped words join the transfer texts, one each: the teacher reads them whole, the student learns to spell them.
    # Not for pairs.
    spell: bool = True
    # Of the table of token embeddings, below its width: the student learns it as a product of two smaller ones, which
    # is what the exported file holds; null: a full table.
    rank: Positive | None = None


class Tokenize(Strict):
    """Longest sequence in tokens, special tokens included; longer texts are cut and counted."""

    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    # Trims the student's and its control's token embeddings; null: the teacher's vocabulary. The teacher keeps its own.
    vocabulary: Vocabulary | None = None
    # Of the tokens in train, those that the vocabulary does not have; a tokenizer for another language has more.
    max_unknown_share: Share | None = 0.1
    # Of the train texts, those that are cut. Entities and answers read a long text in windows: nothing is cut.
    max_cut_share: Share | None = 0.5
    # Of entities and answers: tokens that neighbouring windows of a long text share; null: a quarter of a window.
    stride: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _move_on(self) -> Self:
        if self.stride is not None and self.stride > self.max_length // 4:
            raise ValueError(
                f"stride is {self.stride}; windows of {self.max_length} tokens share at most {self.max_length // 4}"
            )
        return self
