"""More texts of the training rows' own kind, for the teacher to answer: they carry its signals and no gold label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

# Share of a text's words that a cut keeps, drawn evenly between these; and the fewest words it keeps.
_SHARE = (0.3, 0.7)
_FEWEST = 3


def augment(texts: Sequence[str], crops: int, splices: int, seed: int) -> list[str]:
    """Cuts of texts: alone (a crop), or one behind the other (a splice of two texts).

    The text of a cut is a run of the original's words, so what is said stays in the field's own words while the label
    may change: the reason why such a row must not inherit the gold label (the mistake of TinyBERT's augmentation).
    A text written without spaces is cut between characters.

    Args:
        texts: originals; the draws for one depend on its own text, the seed and, for a splice, on the list.
        crops: how many of each text.
        splices: how many that begin with a cut of each text.
        seed: another one, other cuts.

    Returns:
        The new texts, those that equal an original or each other left out, in the order of the originals.
    """
    made: dict[str, None] = {}
    for text in texts:
        random = np.random.default_rng(list(hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=16).digest()))
        for _ in range(crops):
            made[_cut(text, random)] = None
        for _ in range(splices):
            partner = texts[int(random.integers(len(texts)))]
            made[f"{_cut(text, random)}{_between(text)}{_cut(partner, random)}"] = None
    originals = set(texts)
    return [text for text in made if text not in originals]


def _between(text: str) -> str:
    return " " if " " in text else ""


def _cut(text: str, random: np.random.Generator) -> str:
    between = _between(text)
    words = text.split(between) if between else list(text)
    count = min(max(int(len(words) * random.uniform(*_SHARE)), _FEWEST), len(words))
    start = int(random.integers(len(words) - count + 1))
    return between.join(words[start : start + count]).strip()
