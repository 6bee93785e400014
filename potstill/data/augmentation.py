"""Augments the training texts. The new texts carry the teacher's signals and no gold label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from potstill.config.prepare_params import Augment

# A crop keeps a share of a text's words, drawn uniformly between these, but no fewer than _MIN_WORDS.
_CROP_SHARE = (0.3, 0.7)
_MIN_WORDS = 3
# Shuffled spans have between this many words.
_SPAN_WORDS = (2, 4)


def augment(texts: Sequence[str], params: Augment) -> list[str]:
    """Make changed copies of texts, of every kind that needs no model (for the others see `word_replacement`).

    A crop is a run of a text's words, and a splice is a run of one text's words followed by a run of another's. A
    masked copy has some words replaced by the mask token, and a shuffled one has short spans of its words in another
    order. The copies keep the domain's words, but the label may change. So they must not inherit the gold label, which
    was the mistake of TinyBERT's augmentation. A text written without spaces is cut between characters.

    Args:
        texts: originals. The draws for one depend on its text and the seed, and for a splice also on the list.
        params: how many copies of each kind to make from each text, and the seed.

    Returns:
        The new texts in the order of the originals, without those that equal an original or each other.
    """
    copies = dict.fromkeys(copy for text in texts for copy in _copies(text, texts, params))
    originals = set(texts)
    return [copy for copy in copies if copy not in originals]


def text_generator(text: str, seed: int) -> np.random.Generator:
    """Seed a random generator with a text, so that its numbers stay when other texts come or go."""
    return np.random.default_rng(list(hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=16).digest()))


def _copies(text: str, texts: Sequence[str], params: Augment) -> Iterator[str]:
    random = text_generator(text, params.seed)
    for _ in range(params.crops):
        yield _crop(text, random)
    for _ in range(params.splices):
        other_text = texts[int(random.integers(len(texts)))]
        yield f"{_crop(text, random)}{_word_separator(text)}{_crop(other_text, random)}"
    for _ in range(params.masks):
        yield _masked(text, params, random)
    for _ in range(params.shuffles):
        yield _shuffled(text, random)


def _words(text: str) -> list[str]:
    separator = _word_separator(text)
    return text.split(separator) if separator else list(text)


def _word_separator(text: str) -> str:
    return " " if " " in text else ""


def _crop(text: str, random: np.random.Generator) -> str:
    words = _words(text)
    count = min(max(int(len(words) * random.uniform(*_CROP_SHARE)), _MIN_WORDS), len(words))
    start = int(random.integers(len(words) - count + 1))
    return _word_separator(text).join(words[start : start + count]).strip()


def _masked(text: str, params: Augment, random: np.random.Generator) -> str:
    """Replace a share of the words, at least one, with the mask token."""
    words = _words(text)
    count = max(round(params.share * len(words)), 1)
    for index in random.choice(len(words), min(count, len(words)), replace=False):
        words[index] = params.mask_token
    return _word_separator(text).join(words)


def _shuffled(text: str, random: np.random.Generator) -> str:
    """Put the words' spans of `_SPAN_WORDS` words in another order."""
    words = _words(text)
    spans = []
    while words:
        size = int(random.integers(_SPAN_WORDS[0], _SPAN_WORDS[1] + 1))
        spans.append(words[:size])
        words = words[size:]
    order = random.permutation(len(spans))
    return _word_separator(text).join(word for index in order for word in spans[index])
