"""Perturbations of Chinese texts: width of characters, script, doubled characters."""

from __future__ import annotations

import re
from functools import cache
from math import ceil
from typing import Any

from numpy.random import Generator

from potstill.evaluation.behaviour.edits import unless_equal

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
# A text is Chinese from this share of its characters on.
_CHINESE_SHARE = 0.3
# A doubled character for every twenty, rounded up.
_CHARACTERS_A_TYPO = 20
# U+0021 to U+007E have forms of full width in the same order; the space is U+3000.
_FULL = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}
_HALF = {full: half for half, full in _FULL.items()} | {0x3002: 0x2E, 0x3001: 0x2C}


def chinese_share(text: str) -> float:
    """Compute the share of Chinese characters among the characters of a text that are no white space."""
    visible = sum(not character.isspace() for character in text)
    return len(HAN.findall(text)) / visible if visible else 0.0


def is_chinese(text: str) -> bool:
    """Whether enough of a text's characters are Chinese."""
    return chinese_share(text) >= _CHINESE_SHARE


def widen(text: str, random: Generator) -> str | None:
    """Write ASCII in full width: １２３ for 123."""
    return unless_equal(text, text.translate(_FULL))


def narrow(text: str, random: Generator) -> str | None:
    """Write characters of full width in ASCII: 123 for １２３, a comma for ，."""
    return unless_equal(text, text.translate(_HALF))


def change_script(text: str, random: Generator) -> str | None:
    """Write a simplified text in traditional characters, and a traditional one in simplified characters.

    None for the rare text whose number of characters would change, and where the scripts do not differ.
    """
    changed = _converter("s2t").convert(text)
    if changed == text:
        changed = _converter("t2s").convert(text)
    return unless_equal(text, changed) if len(changed) == len(text) else None


def double_character(text: str, random: Generator) -> str | None:
    """Type a Chinese character twice."""
    positions = [match.start() for match in HAN.finditer(text)]
    if not positions:
        return None
    chosen = random.choice(positions, size=ceil(len(positions) / _CHARACTERS_A_TYPO), replace=False)
    changed = text
    for position in sorted(chosen.tolist(), reverse=True):
        changed = changed[:position] + changed[position] + changed[position:]
    return changed


@cache
def _converter(direction: str) -> Any:
    from opencc import OpenCC

    return OpenCC(direction)
