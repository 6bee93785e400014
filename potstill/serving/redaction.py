"""Masks over what must not be written: e-mail addresses, telephone numbers, numbers, or what params name."""

from __future__ import annotations

import re
from collections.abc import Mapping

from potstill.inference.runtime import Text


class Redactor:
    """Replaces what patterns find by their names in brackets, pattern after pattern."""

    def __init__(self, masks: Mapping[str, str]) -> None:
        """Compile the patterns.

        Args:
            masks: name -> regular expression (`watch.masks`).
        """
        self._masks = [(re.compile(pattern), f"[{name}]") for name, pattern in masks.items()]

    def __call__(self, text: str) -> str:
        """The text with masks."""
        for pattern, mask in self._masks:
            text = pattern.sub(lambda _, mask=mask: mask, text)  # type: ignore[misc]
        return text

    def columns(self, text: Text) -> dict[str, str]:
        """A text, or the two of a pair, with masks, as the columns of a row of data."""
        if isinstance(text, str):
            return {"text": self(text)}
        return {"text": self(text[0]), "text_pair": self(text[1])}
