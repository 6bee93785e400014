"""The ways in which corpora write tags of words, turned into BIO2."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from potstill.errors import LabelError
from potstill.labels.tags import OUTSIDE

# BIO2: every entity begins with B. BIO1: B only where an entity follows another of its type. BIOES: its last word has
# E, a single one S; BMES writes M for I. BILOU: L and U for these. IO: adjacent words of one type are one entity.
Scheme = Literal["BIO2", "BIO1", "BIOES", "BILOU", "IO"]
_PREFIXES: dict[Scheme, str] = {"BIO2": "BI", "BIO1": "BI", "BIOES": "BIMES", "BILOU": "BILU", "IO": "BI"}
# Prefixes of an entity of one word, of an entity's end, and of its first word.
_SINGLE, _LAST, _FIRST = "SU", "SUEL", "BSU"


def scheme_of(rows: Iterable[Sequence[str]]) -> Scheme:
    """The scheme in which the tags of some rows are written, by their prefixes.

    Tags of B and I are BIO1 only if some I begins an entity and no B does, but next to another of its type.
    """
    prefixes: set[str] = set()
    opened = begun = False
    for tags in rows:
        before = ""
        for tag in tags:
            prefix, kind = _parts(tag)
            prefixes.add(prefix)
            opened |= prefix == "I" and kind != before
            begun |= prefix == "B" and kind != before
            before = kind
    if prefixes & {"L", "U"}:
        return "BILOU"
    if prefixes & {"E", "S", "M"}:
        return "BIOES"
    return "BIO1" if opened and not begun else "BIO2"


def as_bio2(tags: Sequence[str], scheme: Scheme, where: str) -> list[str]:
    """Checked tags of a row in BIO2.

    Args:
        tags: of the words of a row.
        scheme: how they are written.
        where: the row's place, for messages.

    Raises:
        LabelError: a value that is no tag of the scheme, or one that continues an entity where there is none.
    """
    result: list[str] = []
    before = ""
    for position, tag in enumerate(tags, start=1):
        if tag == OUTSIDE:
            before = ""
            result.append(tag)
            continue
        prefix, kind = _parts(tag)
        if scheme == "IO":
            prefix, kind = "I", kind if prefix in ("B", "I") else tag
        if prefix not in _PREFIXES[scheme] or not kind:
            raise LabelError(f"{where}: {tag[:60]!r} (word {position}) is not a {_named(scheme)} tag; {_write(tag)}")
        begins = prefix in _FIRST or kind != before
        if begins and prefix not in _FIRST and scheme not in ("BIO1", "IO"):
            raise LabelError(
                f"{where}: {tag!r} (word {position}) continues no {kind} entity; in {scheme} an entity begins with "
                f"B-{kind} (correct the row, or set prepare.label.scheme to BIO1)"
            )
        result.append(f"{'B' if begins else 'I'}-{kind}")
        before = "" if prefix in _LAST else kind
    return result


def _parts(tag: str) -> tuple[str, str]:
    """Prefix and type; of a tag that has no prefix of one letter an empty prefix."""
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind) if dash and len(prefix) == 1 else ("", "")


def _named(scheme: Scheme) -> str:
    return "BIO" if scheme in ("BIO1", "BIO2") else scheme


def _write(tag: str) -> str:
    if tag.strip().lstrip("-").isdecimal():
        return "name the tags of these integers, in their order: prepare.label.names: [O, B-TYPE, I-TYPE]"
    if tag[:1].isalpha() and "-" not in tag[:2]:
        return "write O, B-TYPE or I-TYPE, or set prepare.label.scheme to IO if the tags are the types alone"
    return "write O, B-TYPE or I-TYPE, or set prepare.label.scheme"
