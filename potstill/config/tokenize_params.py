"""Section `tokenize`: token ids and the student's vocabulary."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import Layers, Share, Strict
from potstill.config.student_params import Prune, StudentKind


class Vocabulary(Strict):
    """The student's own vocabulary: special tokens, single characters, and the tokens that the texts use most."""

    max_tokens: PositiveInt | Literal["auto"] | None = None
    """Tokens in all, special tokens and characters included. auto: as many as make the student's INT8 file fit
    gate.max_file_mb; nothing is trimmed if the whole vocabulary does. null: no limit."""
    min_count: PositiveInt = 1
    """How often a token has to occur in train and transfer to be kept. Words with a dropped token are split into
    shorter tokens."""
    scripts: Literal["all", "used"] = "all"
    """Which characters are kept although no text has them: all, or those of scripts that the texts use. Characters of
    other scripts are then unknown to the student. Digits, punctuation and symbols are always kept."""
    spell: bool = True
    """Whether each dropped word becomes a transfer row of its own: the teacher reads it whole, and the student learns
    the same answer from its pieces. Pairs have no such rows."""
    rank: PositiveInt | None = None
    """Rank of the table of token embeddings, less than its width. The student learns the table as a product of two
    smaller ones, which the exported file holds. null: a full table."""

    @model_validator(mode="after")
    def _fit_one_way(self) -> Self:
        if self.max_tokens == "auto" and self.rank is not None:
            raise ValueError("max_tokens is auto and rank is given, but auto fits a full table; set one to null")
        return self


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


class FileBudget(Strict):
    """What other sections say about the student's INT8 file: its limit, and what it holds besides the table of token
    embeddings."""

    max_file_mb: PositiveFloat
    """`gate.max_file_mb`."""
    embedding_bits: Literal[4, 8]
    """`export.embedding_bits`."""
    layers: Layers
    """`distill.layers`."""
    student: StudentKind
    """`distill.student`."""
    prune: Prune | None
    """`distill.prune`."""


class BudgetedTokenize(Tokenize):
    """The section as the stage receives it if `vocabulary.max_tokens` is auto."""

    budget: FileBudget
    """The file that the vocabulary has to fit into."""
