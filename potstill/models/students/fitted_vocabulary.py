"""A student's vocabulary, cut to what its training rows use as `tokenize.vocabulary` describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from potstill.config.tokenize_params import Vocabulary
from potstill.data.tokens.batches import Ints, TokenDataset
from potstill.models.students.vocabulary import dropped_words, scripts_of, trim_tokenizer
from potstill.progress import say

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class FittedVocabulary:
    """A smaller vocabulary.

    Attributes:
        new_ids: id in the whole vocabulary -> id in this one, ascending.
        spelled: dropped words for the student to learn to spell, as further texts without labels.
    """

    new_ids: dict[int, int]
    spelled: list[str]

    @property
    def kept_ids(self) -> Ints:
        """The ids, in the whole vocabulary, of the tokens that are kept."""
        return np.array(list(self.new_ids), dtype=np.int64)


def fit_vocabulary(
    tokenizer: Tokenizer, source: Path, target: Path, rows: TokenDataset, plan: Vocabulary, *, pair: bool, name: str
) -> FittedVocabulary:
    """Write a tokenizer with the tokens that training rows use most.

    Args:
        tokenizer: the tokenizer with the whole vocabulary.
        source: folder of its files.
        target: folder for those of the smaller one.
        rows: the rows to learn from, as tokens of this tokenizer.
        plan: limits of the vocabulary.
        pair: whether rows are pairs of texts, whose dropped words are not spelled.
        name: of the stage, in messages.

    Raises:
        ModelError: see `trim_tokenizer`.
    """
    counts = rows.token_counts()
    say(f"{name}: trimming a vocabulary of {tokenizer.get_vocab_size():,} tokens")
    used = {int(index): int(counts[index]) for index in np.flatnonzero(counts)}
    scripts = scripts_of(filter(None, map(tokenizer.id_to_token, used))) if plan.scripts == "used" else None
    assert plan.max_tokens != "auto"  # the stage tokenize has replaced it by a number
    new_ids = trim_tokenizer(
        source, target, used, min_count=plan.min_count, max_tokens=plan.max_tokens, scripts=scripts
    )
    # Not more words than texts: with a vocabulary for a hundred languages, words would be most of the rows.
    spelled = dropped_words(tokenizer, new_ids, len(rows), scripts) if plan.spell and not pair else []
    say(f"{name}: {len(new_ids):,} tokens stay; {len(spelled):,} of the dropped words join transfer")
    return FittedVocabulary(new_ids, spelled)
