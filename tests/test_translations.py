"""A translated page has the commands, outputs, tables and numbers of the English page, which other tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.pages import blocks

TRANSLATED = [REPOSITORY / "README.zh-CN.md", REPOSITORY / "docs" / "tutorial.zh-CN.md"]
FACT = re.compile(r"`[^`]+`|\d+(?:[.,]\d+)*")


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh-CN", ""))


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_blocks_are_those_of_the_english_page(page: Path) -> None:
    assert shown_blocks(page) == shown_blocks(english(page))


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_tables_have_the_commands_and_numbers_of_the_english_page(page: Path) -> None:
    assert table_facts(page) == table_facts(english(page))


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_prose_has_the_commands_and_numbers_of_the_english_page(page: Path) -> None:
    ours, theirs = facts(prose(page)), facts(prose(english(page)))
    assert ours == theirs, (ours - theirs, theirs - ours)


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.name)
def test_sections_and_links_are_those_of_the_english_page(page: Path) -> None:
    assert shape(page) == shape(english(page))


def shown_blocks(page: Path) -> list[tuple[list[str], str, str]]:
    """Kind, code without comments, and expected output of each block."""
    return [(block.kind, re.sub(r" +# .*", "", block.code), block.expected) for block in blocks(page)]


def prose(page: Path) -> str:
    """The page without its blocks and tables."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)


def table_facts(page: Path) -> list[list[list[str]]]:
    """The commands and numbers of each cell."""
    rows = re.findall(r"^\|(.*)\|$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [[FACT.findall(cell) for cell in row.split("|")] for row in rows]


def facts(text: str) -> set[str]:
    return set(FACT.findall(re.sub(r"zh-CN", "", text)))


def shape(page: Path) -> tuple[int, set[str]]:
    """How many sections a page has, and where its links lead. The two languages link to each other."""
    text = page.read_text(encoding="utf-8").replace(".zh-CN", "")
    return len(re.findall(r"^#+ ", text, flags=re.MULTILINE)), set(re.findall(r"\]\(([^)\s]+)\)", text))
