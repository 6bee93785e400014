"""Texts with tagged units, from the forms in which people have them: lists of words and tags, or marked characters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.config.prepare_params import LabelWords
from potstill.data.cleaning import clean
from potstill.data.formats.schemes import Scheme, as_bio2
from potstill.errors import LabelError
from potstill.labels.tags import OUTSIDE, Entity, Unit, inside, tags_of, units_of

# What a record of a span may call its end points and its type.
_STARTS, _ENDS = ("start", "begin", "start_offset"), ("end", "end_offset")
_TYPES = ("label", "labels", "type", "entity", "entity_type", "entity_group")


@dataclass(frozen=True)
class Tagged:
    """A cleaned text, its units and their tags.

    Attributes:
        text: cleaned.
        units: [units] characters of each, in order.
        tags: [units] in BIO2; None where nobody has tagged the text.
    """

    text: str
    units: tuple[Unit, ...]
    tags: tuple[str, ...] | None = None


def from_text(text: Any) -> Tagged:
    """A text that carries no tags."""
    cleaned = clean(text)
    return Tagged(cleaned, tuple(units_of(cleaned)))


def from_words(words: Any, tags: Any, scheme: Scheme, between: str, where: str) -> Tagged:
    """A text from its words.

    A word of several units (`U.S.`) passes its tag on: B to the first, I to the others. A word that cleaning empties
    goes, and leaves its B to the word that continued it.

    Args:
        words: list of strings.
        tags: list of as many tags; None: the row has none.
        scheme: of the tags.
        between: what stands between words in the text; empty where words are characters or a script has no spaces.
        where: the row's place, for messages.

    Raises:
        LabelError: the lists differ in length, or hold what is no word or no tag.
    """
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise LabelError(f"{where}: the words are {str(words)[:60]!r}, not a list of texts; name their column")
    if tags is not None:
        if not isinstance(tags, (list, tuple)) or not all(isinstance(tag, str) for tag in tags):
            raise LabelError(f"{where}: the tags are {str(tags)[:60]!r}, not a list of BIO tags; name their column")
        if len(tags) != len(words):
            raise LabelError(f"{where} has {len(words)} words and {len(tags)} tags; give one tag for each word")
        tags = as_bio2(tags, scheme, where)
    text, units, own = "", [], []
    owed = OUTSIDE
    for position, word in enumerate(map(clean, words)):
        tag = OUTSIDE if tags is None else tags[position]
        if not word:
            owed = tag if tag.startswith("B-") else owed
            continue
        tag = owed if owed != OUTSIDE and tag == inside(owed) else tag
        owed = OUTSIDE
        start = len(text) + (len(between) if text else 0)
        text += (between if text else "") + word
        found = units_of(word)
        units += [Unit(start + low, start + high) for low, high in found]
        own += [tag if first == 0 else inside(tag) for first in range(len(found))]
    return Tagged(text, tuple(units), None if tags is None else tuple(own))


def from_spans(text: Any, spans: Any, where: str) -> Tagged:
    """A text whose entities are marked by characters.

    Args:
        text: as it is, uncleaned: the marks count its characters.
        spans: list of {"start": 0, "end": 5, "label": "LOC"} or [0, 5, "LOC"], `end` exclusive; empty: no entity.
        where: the row's place, for messages.

    Raises:
        LabelError: a span of another form, beyond the text, of no character, or that overlaps another.
    """
    raw = "" if text is None else str(text)
    if not isinstance(spans, (list, tuple)):
        raise LabelError(f"{where}: the spans are {str(spans)[:60]!r}, not a list; write [] where there is no entity")
    marked = sorted({_span(span, raw, where) for span in spans}, key=lambda entity: entity.start)
    for before, after in itertools.pairwise(marked):
        if after.start < before.end:
            raise LabelError(
                f"{where}: the spans {before.start}-{before.end} and {after.start}-{after.end} overlap; BIO tags hold "
                "no nested entities: keep one of them"
            )
    units = units_of(raw, {place for entity in marked for place in (entity.start, entity.end)})
    entities = [_entity(entity, units, where) for entity in marked]
    return _cleaned(raw, units, tags_of(entities, len(units)))


def from_tagged_words(line: Any, label: LabelWords, where: str) -> Tagged:
    """A text whose words each carry a tag, as corpora with parts of speech are written: `中国/ns 人民/n`.

    Args:
        line: words divided by white space, each with its tag behind the last separator.
        label: which tags are entities, and which of these join with a neighbour of the same tag.
        where: the row's place, for messages.

    Raises:
        LabelError: a word without a tag.
    """
    words: list[str] = []
    tags: list[str] = []
    before = ""
    for position, item in enumerate(str(line or "").split(), start=1):
        word, found, tag = item.rpartition(label.separator)
        if not found or not word or not tag:
            raise LabelError(
                f"{where}: {item[:60]!r} (word {position}) has no tag behind {label.separator!r}; "
                "give it one, or set prepare.label.separator"
            )
        kind = label.types.get(tag)
        joins = kind is not None and tag == before and tag in label.joined
        words.append(word)
        tags.append(OUTSIDE if kind is None else f"{'I' if joins else 'B'}-{kind}")
        # Two words, no more: a list of names without commas has many of one tag.
        before = "" if joins else tag
    return from_words(words, tags, "BIO2", label.between, where)


def _span(span: Any, text: str, where: str) -> Entity:
    if isinstance(span, Mapping):
        values = [next((span[name] for name in names if name in span), None) for names in (_STARTS, _ENDS, _TYPES)]
    else:
        values = list(span) if isinstance(span, (list, tuple)) else []
    start, end, kind = values if len(values) == 3 else (None, None, None)
    if isinstance(kind, (list, tuple)) and len(kind) == 1:
        kind = kind[0]
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(kind, str) or not kind:
        raise LabelError(
            f'{where}: {str(span)[:80]!r} is no span; write {{"start": 0, "end": 5, "label": "LOC"}} or [0, 5, "LOC"]'
        )
    if not 0 <= start < end <= len(text):
        raise LabelError(f"{where}: the span {start}-{end} is not within the text's {len(text)} characters")
    return Entity(kind, start, end)


def _entity(marked: Entity, units: Sequence[Unit], where: str) -> Entity:
    """The units of a span of characters."""
    within = [index for index, unit in enumerate(units) if marked.start <= unit.start and unit.end <= marked.end]
    if not within:
        raise LabelError(f"{where}: the span {marked.start}-{marked.end} holds white space alone; remove it")
    return Entity(marked.type, within[0], within[-1] + 1)


def rebuilt(raw: str, units: Sequence[Unit]) -> tuple[str, list[Unit | None]]:
    """A text put together again from its cleaned units, one space where there was white space.

    Args:
        raw: any text.
        units: all of its units, in order.

    Returns:
        The text, and for each unit its characters in it; None for a unit of which cleaning left nothing.
    """
    parts: list[str] = []
    places: list[Unit | None] = []
    length = end = 0
    for low, high in units:
        word = clean(raw[low:high])
        if not word:
            places.append(None)
            continue
        gap = " " if parts and any(character.isspace() for character in raw[end:low]) else ""
        start, end = length + len(gap), high
        length = start + len(word)
        parts += [gap, word]
        places.append(Unit(start, length))
    return "".join(parts), places


def _cleaned(raw: str, units: Sequence[Unit], tags: Sequence[str]) -> Tagged:
    text, places = rebuilt(raw, units)
    kept: list[Unit] = []
    own: list[str] = []
    owed = OUTSIDE
    for place, tag in zip(places, tags, strict=True):
        if place is None:
            owed = tag if tag.startswith("B-") else owed
            continue
        kept.append(place)
        own.append(owed if owed != OUTSIDE and tag == inside(owed) else tag)
        owed = OUTSIDE
    return Tagged(text, tuple(kept), tuple(own))
