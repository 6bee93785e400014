"""Masking of personal data before texts are written: e-mail addresses, telephone numbers, or what params name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from potstill.inference.runtime import Text


class Redactor:
    """Replaces the matches of each pattern by its name in brackets."""

    def __init__(self, masks: Mapping[str, str]) -> None:
        """Compile the patterns.

        Args:
            masks: name -> regular expression (`watch.masks`).
        """
        self._masks = [(re.compile(pattern), f"[{name}]") for name, pattern in masks.items()]

    def __call__(self, text: str) -> str:
        """Mask a text."""
        for pattern, mask in self._masks:
            text = pattern.sub(lambda _, mask=mask: mask, text)  # type: ignore[misc]
        return text

    def columns(self, text: Text) -> dict[str, str]:
        """Mask a text, or both texts of a pair, and return them as the columns of a row."""
        if isinstance(text, str):
            return {"text": self(text)}
        return {"text": self(text[0]), "text_pair": self(text[1])}
