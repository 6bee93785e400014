"""The cells of tables: missing values, and lists and objects that are written as text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Words that programs write for a missing value. A label of such a name has to be declared.
MISSING_WORDS = frozenset({"nan", "NaN", "NAN", "<NA>", "NaT", "None", "null", "NULL", "N/A", "n/a", "NA", "#N/A"})
# Those that only pandas, Python and JSON write. In a column of texts people write the others.
_MISSING_TEXTS = MISSING_WORDS - {"N/A", "n/a", "NA", "#N/A"}
# The objects for a missing value, as `str` writes them: None, NaN of any precision, pandas' NA and NaT.
_ABSENT = ("None", "nan", "<NA>", "NaT")
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
# NumPy writes a list with white space between the items, perhaps inside `array(...)`.
_ARRAY = re.compile(r"^array\((.*?)(?:,\s*dtype=[\w<>]+)?\)$", re.DOTALL)
_GAP = re.compile(r"(?<=['\"])\s+(?=['\"])")
# The greatest depth of nested values for which paths are listed.
_MAX_DEPTH = 4


def is_absent(value: Any) -> bool:
    """Whether a cell has no value: None, NaN, NumPy's and pandas' missing values, or only white space."""
    text = str(value).strip()
    return not text or (not isinstance(value, str) and text in _ABSENT)


def is_missing_word(value: Any) -> bool:
    """Whether a cell holds only a word for a missing value, such as `nan`."""
    return isinstance(value, str) and value.strip() in MISSING_WORDS


def is_missing_text(value: Any) -> bool:
    """Whether a cell in a column of texts holds only a word for a missing value."""
    return isinstance(value, str) and value.strip() in _MISSING_TEXTS


def is_nested(value: Any) -> bool:
    """Whether a value is a list or an object."""
    return isinstance(value, (Mapping, list, tuple, set, frozenset))


def parse_nested(value: Any) -> Any:
    """Parse a text that JSON, Python or NumPy wrote for a list or an object. Other values are returned unchanged."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if array := _ARRAY.match(text):
        text = array[1].strip()
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return value
    for parser in (json.loads, _literal):
        try:
            result = parser(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return result if is_nested(result) else value
    return value


def _literal(text: str) -> Any:
    return ast.literal_eval(_GAP.sub(", ", text) if "," not in text else text)


def is_bracketed(value: Any) -> bool:
    """Whether a text stands in the brackets of a list or an object."""
    text = value.strip() if isinstance(value, str) else ""
    return len(text) > 1 and text[0] in "[{" and _BRACKETS[text[0]] == text[-1]


def paths_of(value: Any, prefix: str = "", depth: int = _MAX_DEPTH) -> Iterator[str]:
    """List the dotted paths to the single values in a nested value. Only the first item of a list is followed."""
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


def value_at_path(value: Any, steps: Sequence[str]) -> Any:
    """Follow a path of keys and list indices into a value. None: the path leads nowhere."""
    for step in steps:
        value = parse_nested(value)
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, (list, tuple)) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
