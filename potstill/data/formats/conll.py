"""Reads files with a word a line and a blank line after each sentence: CoNLL-2003 and others, CoNLL-U (Plus)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from potstill.data.formats.tabular import Table
from potstill.errors import FormatError

SUFFIXES = (".conll", ".conllu", ".conllup", ".conll2003", ".iob", ".iob2", ".bio", ".bioes", ".bilou", ".ner")
TOKENS = "tokens"
TAGS = "ner_tags"
_UNIVERSAL = ("id", TOKENS, "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_DOCUMENT = "-DOCSTART-"
_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*(.+)")
# Some files have a word's entity in the last column of CoNLL-U, as `NER=B-LOC`.
_MISC_TAG = re.compile(r"(?:^|\|)(?:NER|ner|NE|ne)=([^|]+)")
_TAG = re.compile(r"(?:O|[BIESLUM]-\S+)$")
# Lines that are checked to recognise the format.
_SAMPLE_LINES = 400


@dataclass(frozen=True)
class _Word:
    line: int
    cells: list[str]


def looks_like_conll(text: str) -> bool:
    """Whether a text has lines of equal width that end with a BIO tag, and blank lines between sentences."""
    lines = text[:100_000].split("\n")[:_SAMPLE_LINES]
    filled = [line for line in lines if line.strip() and not line.startswith((_DOCUMENT, "#"))]
    if len(filled) < 3 or len(filled) == len(lines):
        return False
    cells = [_cells(line) for line in filled]
    widths = {len(row) for row in cells[: len(cells) - 1] or cells}
    return len(widths) == 1 and widths.pop() >= 2 and all(_TAG.match(row[-1]) for row in cells[:-1])


def read_conll(text: str, location: str, columns: Sequence[str] | None, universal: bool) -> Table:
    """Read sentences as rows. Each column of the file becomes a column of lists.

    Args:
        text: the text of the file.
        location: its path, for messages.
        columns: names of the columns; None: `tokens` first and `ner_tags` last, as in CoNLL-2003.
        universal: whether the file is CoNLL-U, which has ids, ten columns and comments.

    Raises:
        FormatError: lines of uneven width, or words without tags.
    """
    sentences = _sentences(text)
    width = _width(sentences)
    sentences = [[word for word in words if not _is_comment(word, width)] for words in sentences]
    sentences = [words for words in sentences if words]
    names = list(columns or _declared_names(text))
    if not names:
        names = list(_UNIVERSAL) if universal and width == 10 else _default_names(width, sentences)
    if len(names) < 2:
        raise FormatError(f"{location} has no tags: its lines have one column; give words and tags, or set `format`")
    _check_widths(sentences, names, location)
    if names[0] == "id":  # Drops multiword tokens (1-2) and empty nodes (1.1).
        sentences = [[word for word in words if word.cells[0].isdecimal()] for words in sentences]
    table = _table(location, names, [words for words in sentences if words])
    return _with_misc_tags(table) if TAGS not in names and "misc" in names else table


def _declared_names(text: str) -> list[str]:
    """Read the column names that CoNLL-U Plus declares in a comment."""
    declaration = _COLUMNS.search(text[:10_000])
    return [_plain_name(name) for name in declaration[1].split()] if declaration else []


def _check_widths(sentences: Sequence[Sequence[_Word]], names: Sequence[str], location: str) -> None:
    for words in sentences:
        for word in words:
            if len(word.cells) != len(names):
                raise FormatError(
                    f"{location}, line {word.line} has {len(word.cells)} columns where {len(names)} "
                    f"({', '.join(names)}) are expected; correct that line, or name the columns with "
                    "`columns` in prepare.tables"
                )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("\r\n").split("\t")] if "\t" in line.strip() else line.split()


def _sentences(text: str) -> list[list[_Word]]:
    sentences: list[list[_Word]] = [[]]
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith(_DOCUMENT):
            sentences.append([])
        else:
            sentences[-1].append(_Word(number, _cells(line)))
    return sentences


def _width(sentences: Sequence[Sequence[_Word]]) -> int:
    counts = Counter(len(word.cells) for words in sentences for word in words if not word.cells[0].startswith("#"))
    return counts.most_common(1)[0][0] if counts else 0


def _is_comment(word: _Word, width: int) -> bool:
    """Whether a line is a comment rather than the word `#`."""
    return word.cells[0].startswith("#") and (len(word.cells) != width or word.cells[0] != "#")


def _default_names(width: int, sentences: Sequence[Sequence[_Word]]) -> list[str]:
    even = [words for words in sentences if all(len(word.cells) == width for word in words)]
    numbered = bool(even) and all(
        [word.cells[0] for word in words] == [str(number) for number in range(1, len(words) + 1)] for words in even
    )
    first = ["id", TOKENS] if numbered else [TOKENS]
    if width == 4 and not numbered:
        return [TOKENS, "pos_tags", "chunk_tags", TAGS]
    if width <= len(first):
        return [TOKENS, TAGS][:width]
    return [*first, *(f"column_{index + 1}" for index in range(len(first), width - 1)), TAGS]


def _plain_name(name: str) -> str:
    """Translate the name of a column of CoNLL-U Plus."""
    known = {"FORM": TOKENS, "NER": TAGS, "NE": TAGS, "PARSEME:NE": TAGS}
    return known.get(name, name.lower().removeprefix("conll:"))


def _table(location: str, names: Sequence[str], sentences: Sequence[Sequence[_Word]]) -> Table:
    columns = {name: [[word.cells[index] for word in words] for words in sentences] for index, name in enumerate(names)}
    words = sum(map(len, sentences))
    tags = f"; {TAGS!r} is the last of {len(names)} columns" if len(names) > 2 and names[-1] == TAGS else ""
    note = f"CoNLL: {len(sentences):,} sentences of {words:,} words in {TOKENS!r}{tags}"
    row_numbers = [sentence[0].line for sentence in sentences]
    return Table(location, columns, row_numbers, notes=(note,), format="conll", tool="CoNLL")


def _with_misc_tags(table: Table) -> Table:
    """Add the column of tags that `misc` holds as NER=."""
    tags = [
        [match[1] if (match := _MISC_TAG.search(cell)) else "O" for cell in cells] for cells in table.columns["misc"]
    ]
    if not any(tag != "O" for row in tags for tag in row):
        return table
    return replace(table, columns=table.columns | {TAGS: tags}).with_notes(f"{TAGS!r} is read from NER= in `misc`")
