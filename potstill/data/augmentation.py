"""More texts of the training rows' own kind, for the teacher to answer: they carry its signals and no gold label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from potstill.config.prepare_params import Augment

# Share of a text's words that a cut keeps, drawn evenly between these; and the fewest words it keeps.
_SHARE = (0.3, 0.7)
_FEWEST = 3
# Words of a span whose place in the text is shuffled.
_SPAN = (2, 4)


def augment(texts: Sequence[str], params: Augment) -> list[str]:
    """Changed copies of texts, all kinds but those a model makes (`replacement.replace_words`).

    A crop is a run of a text's words, a splice one such run behind another text's; a masked copy has some words
    replaced by the mask token, a shuffled one short spans of its words in another order. What is said stays in the
    field's own words while the label may change: the reason why such a row must not inherit the gold label (the mistake
    of TinyBERT's augmentation). A text written without spaces is cut between characters.

    Args:
        texts: originals; the draws for one depend on its own text, the seed and, for a splice, on the list.
        params: how many of each kind from each text, and the seed: another one, other draws.

    Returns:
        The new texts, those that equal an original or each other left out, in the order of the originals.
    """
    made: dict[str, None] = {}
    for text in texts:
        for copy in _copies(text, texts, params):
            made[copy] = None
    originals = set(texts)
    return [text for text in made if text not in originals]


def draws_for(text: str, seed: int) -> np.random.Generator:
    """Random numbers of a text's own: they stay when other texts come or go."""
    return np.random.default_rng(list(hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=16).digest()))


def _copies(text: str, texts: Sequence[str], params: Augment) -> Iterator[str]:
    random = draws_for(text, params.seed)
    for _ in range(params.crops):
        yield _cut(text, random)
    for _ in range(params.splices):
        partner = texts[int(random.integers(len(texts)))]
        yield f"{_cut(text, random)}{_between(text)}{_cut(partner, random)}"
    for _ in range(params.masks):
        yield _masked(text, params, random)
    for _ in range(params.shuffles):
        yield _shuffled(text, random)


def _words(text: str) -> list[str]:
    between = _between(text)
    return text.split(between) if between else list(text)


def _between(text: str) -> str:
    return " " if " " in text else ""


def _cut(text: str, random: np.random.Generator) -> str:
    words = _words(text)
    count = min(max(int(len(words) * random.uniform(*_SHARE)), _FEWEST), len(words))
    start = int(random.integers(len(words) - count + 1))
    return _between(text).join(words[start : start + count]).strip()


def _masked(text: str, params: Augment, random: np.random.Generator) -> str:
    """A share of the words, one at least, behind the mask token."""
    words = _words(text)
    count = max(round(params.share * len(words)), 1)
    for place in random.choice(len(words), min(count, len(words)), replace=False):
        words[place] = params.mask_token
    return _between(text).join(words)


def _shuffled(text: str, random: np.random.Generator) -> str:
    """The words in spans of `_SPAN` words, the spans in another order."""
    words, spans = _words(text), []
    while words:
        size = int(random.integers(_SPAN[0], _SPAN[1] + 1))
        spans.append(words[:size])
        words = words[size:]
    order = random.permutation(len(spans))
    return _between(text).join(word for place in order for word in spans[place])
