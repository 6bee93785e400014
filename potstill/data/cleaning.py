"""Cleans texts: Unicode NFC, no control characters, single spaces."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer

# C0 and C1 control characters that are not white space, and the byte order mark inside a text. Characters that only
# shape their neighbours (zero-width joiners in emoji and Persian, direction marks) are text and stay.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
# White space as `str.split` takes it. `\s` is something else in other languages, which read served tokenizers too.
_SPACES = "[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
# Half of a surrogate pair, which broken JSON escapes give. It has no UTF-8 form.
_SURROGATE = re.compile("[\ud800-\udfff]")
# U+FFFD, and mojibake of UTF-8 that was read as Windows-1252: "é" as "Ã©", "’" as "â€™", emoji as "ðŸ...".
DAMAGE = (
    "\ufffd|[\u00c2\u00c3][\u00a1-\u00bf]|"
    "\u00c3[\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]|"
    "\u00e2\u20ac|\u00f0\u0178|\u00ef\u00bb\u00bf|\u00ef\u00bf\u00bd"
)


def clean(value: Any) -> str:
    """Clean a cell: NFC, no control characters, each run of white space (tabs and newlines too) as one space.

    A missing value gives an empty text. A lone surrogate gives U+FFFD, which `validate` counts as damage.
    """
    if value is None:
        return ""
    text = unicodedata.normalize("NFC", _CONTROL.sub("", value if isinstance(value, str) else str(value)))
    return " ".join(without_surrogates(text).split())


def cleaning_normalizer(normalizer: Normalizer | None) -> Normalizer:
    """Put the steps of `clean` before a tokenizer's normalizer, or None. Offsets stay those of the raw text."""
    from tokenizers import Regex
    from tokenizers.normalizers import NFC, Replace, Sequence, Strip

    steps = [Replace(Regex(_CONTROL.pattern), ""), NFC(), Replace(Regex(_SPACES), " "), Strip()]
    return Sequence(steps if normalizer is None else [*steps, normalizer])


def without_surrogates(text: str) -> str:
    """Replace each lone surrogate by U+FFFD, so that the text has a UTF-8 form."""
    return _SURROGATE.sub("\ufffd", text)


def comparable(text: str) -> str:
    """Fold the case of a cleaned text. Two texts are copies if these forms are equal."""
    return unicodedata.normalize("NFC", text.casefold())
