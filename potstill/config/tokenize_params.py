"""Section `tokenize`: token ids and the student's vocabulary."""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from potstill.config.base import Share, Strict


class Vocabulary(Strict):
    """The student's own vocabulary: special tokens, single characters, and the tokens that the texts use most."""

    max_tokens: PositiveInt | None = None
    """Tokens in all, special tokens and characters included. null: no limit."""
    min_count: PositiveInt = 1
    """How often a token has to occur in train and transfer to be kept. Words with a dropped token are split into
    shorter tokens."""
    spell: bool = True
    """Whether each dropped word becomes a transfer row of its own: the teacher reads it whole, and the student learns
    the same answer from its pieces. Pairs have no such rows."""
    rank: PositiveInt | None = None
    """Rank of the table of token embeddings, less than its width. The student learns the table as a product of two
    smaller ones, which the exported file holds. null: a full table."""


class Tokenize(Strict):
    """Length of sequences, limits on what the tokenizer loses, and the student's vocabulary."""

    max_length: int = Field(128, ge=8, le=8192)
    """Longest sequence in tokens, special tokens included. Longer texts are cut and counted."""
    vocabulary: Vocabulary | None = None
    """A smaller vocabulary for the student and its controls; the teacher keeps its own. null: the teacher's
    vocabulary."""
    max_unknown_share: Share | None = 0.1
    """Highest share of the tokens of train that may be unknown to the vocabulary. A tokenizer for another language has
    more. null: any share."""
    max_cut_share: Share | None = 0.5
    """Highest share of the train texts that may be cut. Long texts of entities and answers are read in windows and not
    cut. null: any share."""
    stride: NonNegativeInt | None = None
    """Tokens by which neighbouring windows of a long text overlap, for entities and answers; at most a quarter of
    max_length. null: a quarter of max_length."""

    @model_validator(mode="after")
    def _advance(self) -> Self:
        if self.stride is not None and self.stride > self.max_length // 4:
            raise ValueError(
                f"stride is {self.stride}, but windows of {self.max_length} tokens overlap by at most "
                f"{self.max_length // 4}"
            )
        return self
