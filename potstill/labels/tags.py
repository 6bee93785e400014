"""Tags of words (BIO) and the entities they spell, independent of any tokenizer; pure Python, as the service needs it.

A text is cut into units by `units_of`: runs of letters and digits, each punctuation mark alone, each character of a
script without spaces (Chinese, Japanese) alone. What users call a word may be several units (`U.S.`); data, scores and
the service all speak of units, so that what is evaluated is what is served.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

OUTSIDE = "O"
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"


class Entity(NamedTuple):
    """A run of units of one type, `start` to `end` (exclusive) as indices of units."""

    type: str
    start: int
    end: int


class Unit(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int


class TaggedUnit(NamedTuple):
    """A unit and its tag."""

    start: int
    end: int
    tag: str


@cache
def _pattern() -> re.Pattern[str]:
    """A CJK character; or letters, digits and the marks that belong to them; or any other visible character."""
    marks = [code for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith("M")]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    within = "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)
    return re.compile(rf"[{_CJK}][{within}]*|(?:(?![{_CJK}])\w[{within}]*)+|[^\w\s]")


def units_of(text: str, cuts: Iterable[int] = ()) -> list[Unit]:
    """The units of a text.

    Args:
        text: any text.
        cuts: positions at which a unit ends in any case: where words or entities that someone has marked begin or end.
    """
    places = sorted(set(cuts))
    if not places:
        return [Unit(*match.span()) for match in _pattern().finditer(text)]
    found: list[Unit] = []
    for low, high in zip([0, *places], [*places, len(text)], strict=True):
        found += [Unit(*match.span()) for match in _pattern().finditer(text, low, high)]
    return found


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix and type of a tag: `B-LOC` -> (B, LOC); `O` has no type.

    Raises:
        ValueError: it is none of O, B-TYPE and I-TYPE.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, kind = tag.partition("-")
    if prefix not in ("B", "I") or not dash or not kind:
        raise ValueError(tag)
    return prefix, kind


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags spell, in order.

    A model's tags need not be valid: an I tag that continues nothing begins an entity, as conlleval reads it.
    """
    found: list[Entity] = []
    start, kind = 0, ""
    for position, tag in enumerate([*tags, OUTSIDE]):
        prefix, own = split_tag(tag)
        if kind and (prefix != "I" or own != kind):
            found.append(Entity(kind, start, position))
            kind = ""
        if own and not kind:
            start, kind = position, own
    return found


def tags_of(entities: Iterable[Entity], units: int) -> list[str]:
    """BIO2 tags of a row of that many units from entities that do not overlap."""
    tags = [OUTSIDE] * units
    for kind, start, end in entities:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


def inside(tag: str) -> str:
    """The tag of what follows within the same word: B-LOC -> I-LOC."""
    return f"I{tag[1:]}" if tag.startswith("B-") else tag


def tag_set(types: Iterable[str]) -> list[str]:
    """The tags of entity types, in class-index order: O, then B and I of each type.

    So a class index tells by itself what it is: 0 is O, an odd one B, an even one I.
    """
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in dict.fromkeys(types) for prefix in ("B", "I"))]


def types_named(tags: Sequence[str | int]) -> list[str]:
    """The entity types of a `tag_set`, in its order."""
    return [str(tag)[2:] for tag in tags[1::2]]
