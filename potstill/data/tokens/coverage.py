"""Measures how a tokenizer covers texts: their lengths, the share of truncated texts and of unknown tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from potstill.data.tokens.tokenization import load_tokenizer
from potstill.errors import TokenizationError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ints = npt.NDArray[np.int64]
Text = str | tuple[str, str]
# Longer than any text, so that nothing is truncated.
_UNLIMITED = 2**20
# A sample of this size is enough for the shares.
_SAMPLE = 20_000
# Sequence limits to choose from. A longer limit is not worth it below this share of truncated texts.
LENGTHS = (32, 64, 128, 256, 512)
ACCEPTABLE_CUT = 0.05


@dataclass(frozen=True)
class Coverage:
    """How a tokenizer covers some texts.

    Attributes:
        texts: the number of texts.
        lengths: [texts] tokens of each text, with special ones and without truncation, ascending.
        unknown_share: the share of unknown tokens among those that are not special.
    """

    texts: int
    lengths: Ints
    unknown_share: float

    def quantile(self, share: float) -> int:
        """Compute the length that this share of the texts does not exceed."""
        return int(np.quantile(self.lengths, share, method="higher")) if self.texts else 0

    def cut_share(self, max_length: int) -> float:
        """Compute the share of texts that a sequence limit truncates."""
        return float((self.lengths > max_length).mean()) if self.texts else 0.0

    def mean(self, max_length: int) -> float:
        """Compute the mean length of the truncated texts."""
        return float(np.minimum(self.lengths, max_length).mean()) if self.texts else 0.0


def measure_coverage(tokenizer: Path, texts: Sequence[Text]) -> Coverage:
    """Tokenize texts, or an even sample of many, without truncation.

    Args:
        tokenizer: a folder with tokenizer.json.
        texts: single texts, or pairs.

    Raises:
        ModelError: tokenizer.json is missing or cannot be read.
    """
    sample = texts[:: -(-len(texts) // _SAMPLE)] if len(texts) > _SAMPLE else texts
    loaded = load_tokenizer(tokenizer, _UNLIMITED)
    ids = [np.array(encoding.ids, dtype=np.int64) for encoding in loaded.encode_batch_fast(list(sample))]
    lengths = np.sort(np.array([len(row) for row in ids], dtype=np.int64))
    counts = np.bincount(np.concatenate(ids)) if ids else np.zeros(0, dtype=np.int64)
    return Coverage(len(ids), lengths, share_of(*count_unknown(counts, loaded)))


def count_unknown(counts: Ints, tokenizer: Tokenizer) -> tuple[int, int]:
    """Count the unknown tokens, and all tokens that are not special.

    Args:
        counts: [highest id + 1] occurrences of each id.
        tokenizer: the tokenizer of the ids. One that covers every byte has no unknown token.
    """
    unknown_id = _unknown_id(tokenizer)
    special = [index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    special_count = sum(int(counts[index]) for index in special if index < len(counts) and index != unknown_id)
    unknown_count = int(counts[unknown_id]) if unknown_id is not None and unknown_id < len(counts) else 0
    return unknown_count, int(counts.sum()) - special_count


def share_of(part: int, whole: int) -> float:
    """Divide a part by the whole; 0 if that is 0."""
    return part / whole if whole else 0.0


def fitting_length(coverage: Coverage, positions: int) -> int:
    """Choose the smallest of `LENGTHS` that truncates hardly any text, or the largest that the model supports."""
    possible = [length for length in LENGTHS if length <= positions] or [positions]
    return next((length for length in possible if coverage.cut_share(length) <= ACCEPTABLE_CUT), possible[-1])


def check_unknown(share: float, limit: float | None, model: str = "teacher") -> None:
    """Refuse a tokenizer that does not know many of the tokens.

    Args:
        share: the share of unknown tokens in train.
        limit: `tokenize.max_unknown_share`; None: any share.
        model: whose tokenizer it is.

    Raises:
        TokenizationError: the share is over the limit.
    """
    if limit is not None and share > limit:
        raise TokenizationError(
            f"the {model}'s tokenizer does not know {share:.1%} of the tokens in train, over the limit of {limit:.1%} "
            "(tokenize.max_unknown_share): it was trained for another language or script; take a model for the "
            "language of the texts, or raise the limit"
        )


def check_cut(share: float, max_length: int, limit: float | None, coverage: Coverage) -> None:
    """Refuse a sequence limit that truncates too many texts.

    Args:
        share: the share of train texts that are truncated.
        max_length: `tokenize.max_length`.
        limit: `tokenize.max_cut_share`; None: any share.
        coverage: of the train texts, for the advice.

    Raises:
        TokenizationError: the share is over the limit.
    """
    if limit is not None and share > limit:
        raise TokenizationError(
            f"{share:.1%} of the train texts are cut at tokenize.max_length = {max_length}, over the limit of "
            f"{limit:.1%} (tokenize.max_cut_share); half of the texts have at most {coverage.quantile(0.5):,} tokens, "
            f"90% at most {coverage.quantile(0.9):,}: raise tokenize.max_length, or the limit where the beginning of "
            "a text tells enough"
        )


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    model = tokenizer.model
    name = getattr(model, "unk_token", None)
    if name is not None:
        return tokenizer.token_to_id(name)
    # Unigram stores the id of its unknown token, which the library's object does not expose.
    index: int | None = json.loads(tokenizer.to_str())["model"].get("unk_id")
    return index
