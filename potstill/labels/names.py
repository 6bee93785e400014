"""Label names: their normal form for comparison, and their order as a model's classes."""

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
_MARGIN = re.compile(r"^[\s\u200b\u200c\u200d\u2060\ufeff]+|[\s\u200b\u200c\u200d\u2060\ufeff]+$")


# A row's label: the normal name of a class, those of several labels (sorted), a number, tagged units, or answers.
Value = str | tuple[str, ...] | float | tuple[TaggedUnit, ...] | tuple[Unit, ...]


def label_set(keys: Iterable[str], declared: Sequence[str | int] | None) -> list[str | int]:
    """Order labels by their class indices: as declared, else sorted, by number if all are integers."""
    if declared:
        return list(declared)
    names = set(keys)
    if all(_INTEGER.fullmatch(name) for name in names):
        return sorted(int(name) for name in names)
    return sorted(names)


def normal_label(value: Any) -> str:
    """Normalize a label's name, so that names from data, teachers and feedback can be compared.

    The normal form is Unicode NFC without white space or invisible marks around it. 1, 1.0, "1", " 1.0 " and true are
    one label; pandas writes 1.0 for integers in a column with missing values.
    """
    text = str(int(value) if isinstance(value, bool) else value)
    text = _MARGIN.sub("", unicodedata.normalize("NFC", text))
    return text.partition(".")[0] if _INTEGER.fullmatch(text) else text


class LabelNames:
    """The labels of a model or a data set, with look-up by names as people write them."""

    def __init__(self, labels: Iterable[str | int]) -> None:
        """Args: labels: in the order of their classes."""
        self.labels: list[str | int] = list(labels)
        self._exact = {str(label): label for label in self.labels}
        self._normal = _unique((normal_label(label), label) for label in self.labels)
        self._folded = _unique((normal_label(label).casefold(), label) for label in self.labels)

    def find(self, name: Any) -> str | int | None:
        """Find the label of a name. None: the name fits no label, or several.

        An exact match comes first, then one of the normal form (`normal_label`), then one regardless of letter case.
        """
        key = normal_label(name)
        for labels, form in ((self._exact, str(name)), (self._normal, key), (self._folded, key.casefold())):
            label = labels.get(form)
            if label is not None:
                return label
        return None

    def near(self, name: Any) -> str | None:
        """Find the label with the most similar name, for messages. None: no name is similar."""
        close = difflib.get_close_matches(normal_label(name), [str(label) for label in self.labels], n=1)
        return close[0] if close else None


def _unique(pairs: Iterable[tuple[str, str | int]]) -> dict[str, str | int]:
    """Map keys to labels, without the keys that several labels share."""
    grouped: dict[str, list[str | int]] = {}
    for key, label in pairs:
        grouped.setdefault(key, []).append(label)
    return {key: labels[0] for key, labels in grouped.items() if len(labels) == 1}
