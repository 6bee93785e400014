"""Cells as tables hold them: what is missing, and lists and objects that a cell holds as text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# What programs write for a value that is not there. In a column of labels such a name is asked about.
MISSING_WORDS = frozenset({"nan", "NaN", "NAN", "<NA>", "NaT", "None", "null", "NULL", "N/A", "n/a", "NA", "#N/A"})
# Of these a column of texts has none: pandas, Python and JSON write them, people do not.
_MISSING_TEXTS = MISSING_WORDS - {"N/A", "n/a", "NA", "#N/A"}
# What is there for no value, as `str` writes it: None, NaN of any precision, pandas' NA and NaT.
_ABSENT = ("None", "nan", "<NA>", "NaT")
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
# NumPy's way to write a list: items with white space between them, perhaps inside `array(...)`.
_ARRAY = re.compile(r"^array\((.*?)(?:,\s*dtype=[\w<>]+)?\)$", re.DOTALL)
_GAP = re.compile(r"(?<=['\"])\s+(?=['\"])")
# Nested values are looked into this far.
_DEPTH = 4


def is_absent(value: Any) -> bool:
    """Whether a cell has no value: None, NaN and their like of NumPy and pandas, or blanks."""
    text = str(value).strip()
    return not text or (not isinstance(value, str) and text in _ABSENT)


def is_missing_word(value: Any) -> bool:
    """Whether a cell holds a word that programs write for a missing value, such as `nan`."""
    return isinstance(value, str) and value.strip() in MISSING_WORDS


def is_missing_text(value: Any) -> bool:
    """Whether a cell of a column of texts holds nothing but such a word."""
    return isinstance(value, str) and value.strip() in _MISSING_TEXTS


def is_nested(value: Any) -> bool:
    """Whether a value is a list or an object."""
    return isinstance(value, (Mapping, list, tuple, set, frozenset))


def parsed(value: Any) -> Any:
    """The list or object that a text holds, as JSON, Python or NumPy writes it; any other value as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if array := _ARRAY.match(text):
        text = array[1].strip()
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return value
    for read in (json.loads, _literal):
        try:
            result = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return result if is_nested(result) else value
    return value


def _literal(text: str) -> Any:
    return ast.literal_eval(_GAP.sub(", ", text) if "," not in text else text)


def is_bracketed(value: Any) -> bool:
    """Whether a text has the brackets of a list or an object."""
    text = value.strip() if isinstance(value, str) else ""
    return len(text) > 1 and text[0] in "[{" and _BRACKETS[text[0]] == text[-1]


def paths_of(value: Any, prefix: str = "", depth: int = _DEPTH) -> Iterator[str]:
    """Dotted paths of the single values in a nested one; of a list, those of its first item."""
    if isinstance(value, Mapping) and depth:
        for key, item in value.items():
            yield from paths_of(item, f"{prefix}.{key}", depth - 1)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value and depth:
        if any(map(is_nested, value)):
            yield from paths_of(value[0], f"{prefix}.0", depth - 1)
        else:
            yield prefix
    else:
        yield prefix


def at_path(value: Any, steps: Sequence[str]) -> Any:
    """What is at the end of a path of keys and list indices; None where the path ends before."""
    for step in steps:
        value = parsed(value)
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, (list, tuple)) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
