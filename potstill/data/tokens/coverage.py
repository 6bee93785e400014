"""What a tokenizer makes of texts: how long they become, how many are cut, and how much of them it does not know."""

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
# Longer than any text: a tokenizer with that limit cuts nothing.
_UNCUT = 2**20
# Of more texts than that, a sample says as much.
_SAMPLE = 20_000
# Sequence limits to choose from; a share of cut texts below this is not worth a longer one.
LENGTHS = (32, 64, 128, 256, 512)
ACCEPTABLE_CUT = 0.05


@dataclass(frozen=True)
class Coverage:
    """What a tokenizer makes of some texts.

    Attributes:
        texts: that were looked at.
        lengths: [texts] tokens of each, special ones included, uncut, ascending.
        unknown_share: of the tokens that are not special, those that stand for something the vocabulary lacks.
    """

    texts: int
    lengths: Ints
    unknown_share: float

    def quantile(self, share: float) -> int:
        """Tokens that this share of the texts has at most."""
        return int(np.quantile(self.lengths, share, method="higher")) if self.texts else 0

    def cut_share(self, max_length: int) -> float:
        """The share of texts that a sequence limit cuts."""
        return float((self.lengths > max_length).mean()) if self.texts else 0.0

    def mean(self, max_length: int) -> float:
        """Tokens of a text on average, after the cut."""
        return float(np.minimum(self.lengths, max_length).mean()) if self.texts else 0.0


def cover(tokenizer: Path, texts: Sequence[Text]) -> Coverage:
    """Tokenize texts, or an even sample of many, without cutting them.

    Args:
        tokenizer: a folder with tokenizer.json.
        texts: single ones, or pairs.

    Raises:
        ModelError: tokenizer.json is missing or cannot be read.
    """
    sample = texts[:: -(-len(texts) // _SAMPLE)] if len(texts) > _SAMPLE else texts
    loaded = load_tokenizer(tokenizer, _UNCUT)
    ids = [np.array(encoding.ids, dtype=np.int64) for encoding in loaded.encode_batch_fast(list(sample))]
    lengths = np.sort(np.array([len(row) for row in ids], dtype=np.int64))
    counts = np.bincount(np.concatenate(ids)) if ids else np.zeros(0, dtype=np.int64)
    return Coverage(len(ids), lengths, share_of(*unknown(counts, loaded)))


def unknown(counts: Ints, tokenizer: Tokenizer) -> tuple[int, int]:
    """How many tokens are unknown, of how many that are not special.

    Args:
        counts: [highest id + 1] how often each id occurs.
        tokenizer: that made them; one that knows every byte has no unknown token.
    """
    unknown_id = _unknown_id(tokenizer)
    special = [index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    left_out = sum(int(counts[index]) for index in special if index < len(counts) and index != unknown_id)
    found = int(counts[unknown_id]) if unknown_id is not None and unknown_id < len(counts) else 0
    return found, int(counts.sum()) - left_out


def share_of(part: int, whole: int) -> float:
    """A share; of nothing 0."""
    return part / whole if whole else 0.0


def fitting_length(coverage: Coverage, positions: int) -> int:
    """The smallest of `LENGTHS` that cuts hardly any text, or the largest that the model has positions for."""
    possible = [length for length in LENGTHS if length <= positions] or [positions]
    return next((length for length in possible if coverage.cut_share(length) <= ACCEPTABLE_CUT), possible[-1])


def check_unknown(share: float, limit: float | None, whose: str = "teacher") -> None:
    """Refuse a tokenizer that does not know much of what it is to read.

    Args:
        share: of train's tokens.
        limit: `tokenize.max_unknown_share`; None: any share.
        whose: tokenizer it is.

    Raises:
        TokenizationError: the share is over the limit.
    """
    if limit is not None and share > limit:
        raise TokenizationError(
            f"the {whose}'s tokenizer does not know {share:.1%} of the tokens in train, over the limit of {limit:.1%} "
            "(tokenize.max_unknown_share): it was made for another language or script; take a model for the language "
            "of the texts, or raise the limit"
        )


def check_cut(share: float, max_length: int, limit: float | None, coverage: Coverage) -> None:
    """Refuse a sequence limit that cuts too many texts.

    Args:
        share: of the train texts that are cut.
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
    # Unigram has its unknown token by number, which the library's object does not show.
    index: int | None = json.loads(tokenizer.to_str())["model"].get("unk_id")
    return index
