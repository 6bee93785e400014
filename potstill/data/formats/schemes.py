"""Converts the tagging schemes of corpora to BIO2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from potstill.errors import LabelError
from potstill.labels.tags import OUTSIDE

# BIO2: every entity starts with B. BIO1: B only for an entity that follows another of its type. BIOES: the last word
# has E and a single one S; BMES writes M for I. BILOU: L and U for E and S. IO: adjacent words of a type are an entity.
Scheme = Literal["BIO2", "BIO1", "BIOES", "BILOU", "IO"]
_PREFIXES: dict[Scheme, str] = {"BIO2": "BI", "BIO1": "BI", "BIOES": "BIMES", "BILOU": "BILU", "IO": "BI"}
# Prefixes of the last word of an entity, and of its first.
_LAST = "SUEL"
_FIRST = "BSU"


def scheme_of(rows: Iterable[Sequence[str]]) -> Scheme:
    """Recognise the scheme of some rows' tags by their prefixes.

    Tags of B and I are BIO1 if some entity starts with I and none starts with B, except after another of its type.
    """
    prefixes: set[str] = set()
    starts_with_i = False
    starts_with_b = False
    for tags in rows:
        previous = ""
        for tag in tags:
            prefix, kind = _parts(tag)
            prefixes.add(prefix)
            starts_with_i |= prefix == "I" and kind != previous
            starts_with_b |= prefix == "B" and kind != previous
            previous = kind
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & {"E", "S", "M"}:
        return "BIOES"
    return "BIO1" if starts_with_i and not starts_with_b else "BIO2"


def as_bio2(tags: Sequence[str], scheme: Scheme, location: str) -> list[str]:
    """Check the tags of a row and convert them to BIO2.

    Args:
        tags: of the words of a row.
        scheme: the scheme of the tags.
        location: the row's location, for messages.

    Raises:
        LabelError: a value is no tag of the scheme, or it continues an entity that did not start.
    """
    bio2: list[str] = []
    previous = ""
    for position, tag in enumerate(tags, start=1):
        if tag == OUTSIDE:
            previous = ""
            bio2.append(tag)
            continue
        prefix, kind = _parts(tag)
        if scheme == "IO":
            prefix, kind = "I", kind if prefix in ("B", "I") else tag
        if prefix not in _PREFIXES[scheme] or not kind:
            raise LabelError(
                f"{location}: {tag[:60]!r} (word {position}) is not a {_scheme_name(scheme)} tag; {_advice(tag)}"
            )
        begins = prefix in _FIRST or kind != previous
        if begins and prefix not in _FIRST and scheme not in ("BIO1", "IO"):
            raise LabelError(
                f"{location}: {tag!r} (word {position}) continues no {kind} entity; in {scheme} an entity begins with "
                f"B-{kind} (correct the row, or set prepare.label.scheme to BIO1)"
            )
        bio2.append(f"{'B' if begins else 'I'}-{kind}")
        previous = "" if prefix in _LAST else kind
    return bio2


def _parts(tag: str) -> tuple[str, str]:
    """Split a tag into prefix and type. Both are empty for a tag without a prefix of one letter."""
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind) if dash and len(prefix) == 1 else ("", "")


def _scheme_name(scheme: Scheme) -> str:
    return "BIO" if scheme in ("BIO1", "BIO2") else scheme


def _advice(tag: str) -> str:
    if tag.strip().lstrip("-").isdecimal():
        return "name the tags of these integers, in their order: prepare.label.names: [O, B-TYPE, I-TYPE]"
    if tag[:1].isalpha() and "-" not in tag[:2]:
        return "write O, B-TYPE or I-TYPE, or set prepare.label.scheme to IO if the tags are the types alone"
    return "write O, B-TYPE or I-TYPE, or set prepare.label.scheme"
