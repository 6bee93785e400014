"""The names of labels, in the form in which they are compared, and in the order of a model's classes."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from potstill.labels.tags import TaggedUnit, Unit

# Without leading zeros: "01" is a name, not the number 1.
_INTEGER = re.compile(r"(0|-?[1-9]\d*)(\.0+)?")
# White space and invisible marks (zero-width characters, the byte order mark) at either end of a name.
_AROUND = re.compile(r"^[\s\u200b\u200c\u200d\u2060\ufeff]+|[\s\u200b\u200c\u200d\u2060\ufeff]+$")


# A class's key; the keys of the labels that hold, sorted; a number.
Value = str | tuple[str, ...] | float | tuple[TaggedUnit, ...] | tuple[Unit, ...]


def label_set(keys: Iterable[str], declared: Sequence[str | int] | None) -> list[str | int]:
    """Labels in the order of their class indices: as declared, else sorted, as integers if all are integers."""
    if declared:
        return list(declared)
    found = set(keys)
    if all(_INTEGER.fullmatch(key) for key in found):
        return sorted(int(key) for key in found)
    return sorted(found)


def normal_label(value: Any) -> str:
    """A label's name in the form in which names are compared, wherever they come from: data, teacher, feedback.

    Unicode NFC, no white space or invisible marks around it; 1, 1.0, "1", " 1.0 " (what pandas makes of integers in a
    column with a gap) and true are one label.
    """
    text = str(int(value) if isinstance(value, bool) else value)
    text = _AROUND.sub("", unicodedata.normalize("NFC", text))
    return text.partition(".")[0] if _INTEGER.fullmatch(text) else text


class LabelNames:
    """The labels of a model or a data set, looked up by a name as someone wrote it."""

    def __init__(self, labels: Iterable[str | int]) -> None:
        """Args: labels: in the order of their classes."""
        self.labels: list[str | int] = list(labels)
        self._exact = {str(label): label for label in self.labels}
        self._normal = _unique((normal_label(label), label) for label in self.labels)
        self._folded = _unique((normal_label(label).casefold(), label) for label in self.labels)

    def find(self, name: Any) -> str | int | None:
        """The label that a name means; None where it means none, or more than one.

        An exact name wins; then its normal form (`normal_label`); then that without letter case.
        """
        key = normal_label(name)
        for names, written in ((self._exact, str(name)), (self._normal, key), (self._folded, key.casefold())):
            label = names.get(written)
            if label is not None:
                return label
        return None

    def near(self, name: Any) -> str | None:
        """The label whose name is most like a given one, for messages; None where none is like it."""
        close = difflib.get_close_matches(normal_label(name), [str(label) for label in self.labels], n=1)
        return close[0] if close else None


def _unique(pairs: Iterable[tuple[str, str | int]]) -> dict[str, str | int]:
    """Key -> label, without the keys that two labels share."""
    grouped: dict[str, list[str | int]] = {}
    for key, label in pairs:
        grouped.setdefault(key, []).append(label)
    return {key: labels[0] for key, labels in grouped.items() if len(labels) == 1}
