"""Behavioural tests as data: kind, direction, and cases of one text or of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from potstill.inference.runtime import Label, Text

# Invariance, direction, minimum functionality.
Kind = Literal["INV", "DIR", "MFT"]
Direction = Literal["rises", "falls"]


@dataclass(frozen=True)
class Case:
    """A case of a test.

    Attributes:
        text: the text, or the original before the change.
        changed: the changed text; None for an MFT.
        expected: MFT: the right label, all right labels, or the right number. DIR: the label whose probability has to
            move; None for a regression, whose number has to move. INV: None.
    """

    text: Text
    changed: Text | None = None
    expected: Label | tuple[Label, ...] | float | None = None


@dataclass(frozen=True)
class BehaviourTest:
    """A test: its name, its kind, its cases, and for DIR the direction."""

    name: str
    kind: Kind
    cases: tuple[Case, ...]
    direction: Direction | None = None
