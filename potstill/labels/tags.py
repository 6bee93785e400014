"""BIO tags of words and their entities, independent of any tokenizer. Pure Python, since the service needs it.

`units_of` divides a text into units: runs of letters and digits, single punctuation marks, and single characters of
scripts without spaces (Chinese, Japanese). A user's word may be several units (`U.S.`). Data, scores and the service
all use units, so that evaluation and serving agree.
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
    """An entity: its type and its units, from index `start` to `end` (exclusive)."""

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
    """Compile the pattern of a unit: a CJK character, or letters, digits and their marks, or any visible character."""
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
    """Divide a text into units.

    Args:
        text: any text.
        cuts: positions that no unit crosses: the edges of words or entities that are marked.
    """
    edges = sorted(set(cuts))
    units: list[Unit] = []
    for start, end in zip([0, *edges], [*edges, len(text)], strict=True):
        units += [Unit(*match.span()) for match in _pattern().finditer(text, start, end)]
    return units


def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into prefix and type: `B-LOC` -> (B, LOC). `O` has no type.

    Raises:
        ValueError: the tag is none of O, B-TYPE and I-TYPE.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, kind = tag.partition("-")
    if prefix not in ("B", "I") or not dash or not kind:
        raise ValueError(tag)
    return prefix, kind


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """List the entities of tags, in order.

    A model's tags need not be valid: an I tag that continues nothing starts an entity, as in conlleval.
    """
    entities: list[Entity] = []
    start = 0
    open_type = ""
    for position, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = split_tag(tag)
        if open_type and (prefix != "I" or kind != open_type):
            entities.append(Entity(open_type, start, position))
            open_type = ""
        if kind and not open_type:
            start = position
            open_type = kind
    return entities


def tags_of(entities: Iterable[Entity], units: int) -> list[str]:
    """Convert entities that do not overlap to BIO2 tags of that many units."""
    tags = [OUTSIDE] * units
    for kind, start, end in entities:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


def inside(tag: str) -> str:
    """Convert a tag to that of a following unit of the same entity: B-LOC -> I-LOC."""
    return f"I{tag[1:]}" if tag.startswith("B-") else tag


def tag_set(types: Iterable[str]) -> list[str]:
    """List the tags of entity types in class-index order: O, then B and I of each type.

    The class index 0 is O, odd ones are B and other even ones I.
    """
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in dict.fromkeys(types) for prefix in ("B", "I"))]


def types_named(tags: Sequence[str | int]) -> list[str]:
    """List the entity types of a `tag_set`, in its order."""
    return [str(tag)[2:] for tag in tags[1::2]]
