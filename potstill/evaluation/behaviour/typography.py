"""Perturbations of how a text is typed: typos, case, punctuation, white space."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import ceil

from numpy.random import Generator

from potstill.evaluation.behaviour.chinese import HAN
from potstill.evaluation.behaviour.edits import unless_equal

# A typo for every ten words that can have one, rounded up.
_WORDS_A_TYPO = 10
# Letters within the word stay readable: its first letter is never changed.
_LONG_WORD = re.compile(r"(?<![A-Za-z0-9_.@/:#-])[A-Za-z]{4,}(?![A-Za-z0-9_@/:-]|\.\w)")
_ROWS_OF_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: row[max(column - 1, 0) : column] + row[column + 1 : column + 2]
    for row in _ROWS_OF_KEYS
    for column, letter in enumerate(row)
}
_CJK_MARKS = (
    "\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\u201c\u201d\u2018\u2019\u300a\u300b\uff08\uff09\u3010\u3011\u2026"
)
# Addresses and smileys stay; marks between two letters or digits belong to a word or a number.
_PUNCTUATION = re.compile(
    r"((?:https?://|www\.)\S+|[:;=]-?[()DP])"
    rf"|[{_CJK_MARKS}]|(?<![^\W_])[!\"'(),.:;?\[\]]|[!\"'(),.:;?\[\]](?![^\W_])"
)
_DOUBLED = re.compile(r"[.!?,;:](?=\s|$)|[\u3002\uff01\uff0c\uff1a\uff1b\uff1f]")


def swap_letters(text: str, random: Generator) -> str | None:
    """Swap two neighbouring letters."""

    def edit(word: str) -> str | None:
        positions = [at for at in range(1, len(word) - 1) if word[at] != word[at + 1]]
        if not positions:
            return None
        at = int(random.choice(positions))
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return _with_typos(text, random, edit)


def hit_next_key(text: str, random: Generator) -> str | None:
    """Replace a letter by that of a key next to it (QWERTY)."""

    def edit(word: str) -> str:
        at = int(random.integers(1, len(word)))
        letter = word[at]
        neighbour = str(random.choice(list(_NEIGHBOURS[letter.lower()])))
        return word[:at] + (neighbour.upper() if letter.isupper() else neighbour) + word[at + 1 :]

    return _with_typos(text, random, edit)


def drop_letter(text: str, random: Generator) -> str | None:
    """Leave a letter out."""

    def edit(word: str) -> str:
        at = int(random.integers(1, len(word)))
        return word[:at] + word[at + 1 :]

    return _with_typos(text, random, edit)


def double_letter(text: str, random: Generator) -> str | None:
    """Type a letter twice."""

    def edit(word: str) -> str:
        at = int(random.integers(1, len(word)))
        return word[:at] + word[at] + word[at:]

    return _with_typos(text, random, edit)


def _with_typos(text: str, random: Generator, edit: Callable[[str], str | None]) -> str | None:
    """Edit some words of at least four letters; None if there is no such word, or none can be edited."""
    words = list(_LONG_WORD.finditer(text))
    if not words:
        return None
    chosen = random.choice(len(words), size=ceil(len(words) / _WORDS_A_TYPO), replace=False)
    changed = text
    for index in sorted(chosen.tolist(), reverse=True):
        word = words[index]
        edited = edit(word[0])
        if edited is not None:
            changed = changed[: word.start()] + edited + changed[word.end() :]
    return unless_equal(text, changed)


def lower_case(text: str, random: Generator) -> str | None:
    """Write all letters in lower case."""
    return unless_equal(text, "".join(map(_lower, text)))


def upper_case(text: str, random: Generator) -> str | None:
    """Write all letters as capitals."""
    return unless_equal(text, "".join(map(_upper, text)))


def title_case(text: str, random: Generator) -> str | None:
    """Write the first letter of each word as a capital."""
    return unless_equal(text, re.sub(r"(?<![\w'\u2019])[^\W\d_]", lambda match: _upper(match[0]), text))


def _lower(character: str) -> str:
    """Lower a character if the result is one character and can be raised again, unlike that of a dotted capital I."""
    lowered = character.lower()
    return lowered if len(lowered) == 1 and lowered.upper() == character.upper() else character


def _upper(character: str) -> str:
    """Raise a character if the result is one character and can be lowered again, unlike that of a German sharp s."""
    raised = character.upper()
    return raised if len(raised) == 1 and raised.lower() == character.lower() else character


def drop_punctuation(text: str, random: Generator) -> str | None:
    """Remove punctuation, save that within words, numbers, addresses and smileys."""
    changed = _PUNCTUATION.sub(lambda match: match[1] or "", text)
    return unless_equal(text, changed) if changed.strip() else None


def end_with_full_stop(text: str, random: Generator) -> str | None:
    """Add a full stop to a text that ends with a letter or digit."""
    return text + full_stop(text) if text[-1:].isalnum() else None


def double_punctuation(text: str, random: Generator) -> str | None:
    """Double the marks that end sentences and clauses."""
    return unless_equal(text, _DOUBLED.sub(lambda match: match[0] * 2, text))


def double_spaces(text: str, random: Generator) -> str | None:
    """Double each single space between two words."""
    return unless_equal(text, re.sub(r"(?<=\S) (?=\S)", "  ", text))


def pad_with_spaces(text: str, random: Generator) -> str | None:
    """Put a space before the text and a line break after it."""
    return f" {text}\n"


def strip_spaces(text: str, random: Generator) -> str | None:
    """Remove the white space at both ends."""
    changed = text.strip()
    return unless_equal(text, changed) if changed else None


def full_stop(text: str) -> str:
    """Return the full stop of the script that a text ends in."""
    return "\u3002" if HAN.match(text[-1:]) else "."
