"""Builds texts with tagged units from the usual forms of annotation: lists of words and tags, or character spans."""

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

# The keys that a span's record may use for its start, end and type.
_START_KEYS = ("start", "begin", "start_offset")
_END_KEYS = ("end", "end_offset")
TYPE_KEYS = ("label", "labels", "type", "entity", "entity_type", "entity_group")


@dataclass(frozen=True)
class TaggedText:
    """A cleaned text, its units and their tags.

    Attributes:
        text: the cleaned text.
        units: [units] characters of each, in order.
        tags: [units] tags in BIO2; None for a text without tags.
    """

    text: str
    units: tuple[Unit, ...]
    tags: tuple[str, ...] | None = None


def tag_text(text: Any) -> TaggedText:
    """Clean a text and divide it into units without tags."""
    cleaned = clean(text)
    return TaggedText(cleaned, tuple(units_of(cleaned)))


def tag_words(words: Any, tags: Any, scheme: Scheme, between: str, location: str) -> TaggedText:
    """Build a text from its words and their tags.

    A word of several units (`U.S.`) passes its tag on: the first gets B, the others I. A word that is empty after
    cleaning is dropped, and leaves its B to the word that continued it.

    Args:
        words: list of strings.
        tags: list of as many tags; None for a row without tags.
        scheme: the scheme of the tags.
        between: the separator between words. It is empty for words that are characters, and for scripts without spaces.
        location: the row's location, for messages.

    Raises:
        LabelError: the lists differ in length, or an item is no word or no tag.
    """
    _check_words(words, tags, location)
    word_tags = [OUTSIDE] * len(words) if tags is None else as_bio2(tags, scheme, location)
    cleaned = [clean(word) for word in words]
    text = ""
    units: list[Unit] = []
    unit_tags: list[str] = []
    for word, tag in zip(cleaned, _inherit_begin(word_tags, [not word for word in cleaned]), strict=True):
        if not word:
            continue
        text += between if text else ""
        word_units = units_of(word)
        units += [Unit(len(text) + start, len(text) + end) for start, end in word_units]
        unit_tags += [tag if index == 0 else inside(tag) for index in range(len(word_units))]
        text += word
    return TaggedText(text, tuple(units), None if tags is None else tuple(unit_tags))


def _check_words(words: Any, tags: Any, location: str) -> None:
    """Refuse words that are no list of texts, and tags that do not match them."""
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise LabelError(f"{location}: the words are {str(words)[:60]!r}, not a list of texts; name their column")
    if tags is None:
        return
    if not isinstance(tags, (list, tuple)) or not all(isinstance(tag, str) for tag in tags):
        raise LabelError(f"{location}: the tags are {str(tags)[:60]!r}, not a list of BIO tags; name their column")
    if len(tags) != len(words):
        raise LabelError(f"{location} has {len(words)} words and {len(tags)} tags; give one tag for each word")


def _inherit_begin(tags: Sequence[str], dropped: Sequence[bool]) -> list[str]:
    """Give the B of a dropped item to the next one that stays, if that continues the same entity."""
    result: list[str] = []
    pending = OUTSIDE
    for tag, is_dropped in zip(tags, dropped, strict=True):
        if is_dropped:
            result.append(tag)
            pending = tag if tag.startswith("B-") else pending
            continue
        result.append(pending if pending != OUTSIDE and tag == inside(pending) else tag)
        pending = OUTSIDE
    return result


def tag_spans(text: Any, spans: Any, location: str) -> TaggedText:
    """Build a text whose entities are marked by character spans.

    Args:
        text: the raw text, since the spans count its characters.
        spans: list of {"start": 0, "end": 5, "label": "LOC"} or [0, 5, "LOC"], `end` exclusive; empty: no entity.
        location: the row's location, for messages.

    Raises:
        LabelError: a span has another form, is empty, exceeds the text or overlaps another.
    """
    raw = "" if text is None else str(text)
    if not isinstance(spans, (list, tuple)):
        raise LabelError(
            f"{location}: the spans are {str(spans)[:60]!r}, not a list; write [] where there is no entity"
        )
    marked = sorted({_parse_span(span, raw, location) for span in spans}, key=lambda entity: entity.start)
    for before, after in itertools.pairwise(marked):
        if after.start < before.end:
            raise LabelError(
                f"{location}: the spans {before.start}-{before.end} and {after.start}-{after.end} overlap; BIO tags "
                "hold no nested entities: keep one of them"
            )
    units = units_of(raw, {edge for entity in marked for edge in (entity.start, entity.end)})
    tags = tags_of([_unit_entity(entity, units, location) for entity in marked], len(units))
    cleaned, cleaned_units = rebuild_text(raw, units)
    pairs = zip(cleaned_units, _inherit_begin(tags, [unit is None for unit in cleaned_units]), strict=True)
    remaining = [(unit, tag) for unit, tag in pairs if unit is not None]
    return TaggedText(cleaned, tuple(unit for unit, _ in remaining), tuple(tag for _, tag in remaining))


def tag_slash_words(line: Any, label: LabelWords, location: str) -> TaggedText:
    """Build a text whose words each end with a tag, as in corpora with parts of speech: `中国/ns 人民/n`.

    Args:
        line: words divided by white space, each with its tag after the last separator.
        label: which tags are entities, and which of these join with a neighbour of the same tag.
        location: the row's location, for messages.

    Raises:
        LabelError: a word without a tag.
    """
    words: list[str] = []
    tags: list[str] = []
    joinable = ""
    for position, item in enumerate(str(line or "").split(), start=1):
        word, separator, tag = item.rpartition(label.separator)
        if not separator or not word or not tag:
            raise LabelError(
                f"{location}: {item[:60]!r} (word {position}) has no tag after {label.separator!r}; "
                "give it one, or set prepare.label.separator"
            )
        kind = label.types.get(tag)
        joins = kind is not None and tag == joinable and tag in label.joined
        words.append(word)
        tags.append(OUTSIDE if kind is None else f"{'I' if joins else 'B'}-{kind}")
        # At most two words join: a list of names without commas has many words of one tag.
        joinable = "" if joins else tag
    return tag_words(words, tags, "BIO2", label.between, location)


def _parse_span(span: Any, text: str, location: str) -> Entity:
    if isinstance(span, Mapping):
        keys = (_START_KEYS, _END_KEYS, TYPE_KEYS)
        values = [next((span[name] for name in names if name in span), None) for names in keys]
    else:
        values = list(span) if isinstance(span, (list, tuple)) else []
    start, end, kind = values if len(values) == 3 else (None, None, None)
    if isinstance(kind, (list, tuple)) and len(kind) == 1:
        kind = kind[0]
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(kind, str) or not kind:
        raise LabelError(
            f'{location}: {str(span)[:80]!r} is no span; write {{"start": 0, "end": 5, "label": "LOC"}} or '
            '[0, 5, "LOC"]'
        )
    if not 0 <= start < end <= len(text):
        raise LabelError(f"{location}: the span {start}-{end} is not within the text's {len(text)} characters")
    return Entity(kind, start, end)


def _unit_entity(marked: Entity, units: Sequence[Unit], location: str) -> Entity:
    """Convert a span of characters to a span of units."""
    within = [index for index, unit in enumerate(units) if marked.start <= unit.start and unit.end <= marked.end]
    if not within:
        raise LabelError(f"{location}: the span {marked.start}-{marked.end} holds white space alone; remove it")
    return Entity(marked.type, within[0], within[-1] + 1)


def rebuild_text(raw: str, units: Sequence[Unit]) -> tuple[str, list[Unit | None]]:
    """Rebuild a text from its cleaned units, with one space in place of white space.

    Args:
        raw: any text.
        units: all of its units, in order.

    Returns:
        The cleaned text, and for each unit its characters in it. None: nothing of the unit is left after cleaning.
    """
    text = ""
    cleaned_units: list[Unit | None] = []
    end = 0
    for unit in units:
        word = clean(raw[unit.start : unit.end])
        if not word:
            cleaned_units.append(None)
            continue
        if text and any(character.isspace() for character in raw[end : unit.start]):
            text += " "
        cleaned_units.append(Unit(len(text), len(text) + len(word)))
        text += word
        end = unit.end
    return text, cleaned_units
