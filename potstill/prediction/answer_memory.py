"""The answers to the last texts, so that a text that comes again is not computed again."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from potstill.inference.profile import Observation, observe
from potstill.inference.runtime import Student, Text

# Kept texts have at most so many characters together. A short text takes as much memory as one of so many characters.
_MOST_CHARACTERS = 4_000_000
_LEAST_CHARACTERS = 100


class AnswerMemory:
    """A student that remembers its last answers. Safe to call from several threads.

    It remembers only answers that do not depend on the other texts of a call, which are those of INT8: after a kill a
    run remembers less than one that was not killed, and ends with the same bytes.

    Args:
        student: the student.
    """

    def __init__(self, student: Student) -> None:
        self._student = student
        self._lock = threading.Lock()
        self._known: dict[Text, Observation] = {}
        self._characters = 0

    def observe(self, texts: Sequence[Text]) -> list[Observation]:
        """Answer different texts: [texts]."""
        if self._student.card.variant != "int8":
            return observe(self._student, texts)
        with self._lock:
            observed = {text: self._known[text] for text in texts if text in self._known}
        new = [text for text in texts if text not in observed]
        computed = dict(zip(new, observe(self._student, new), strict=True))
        self._remember(computed)
        observed |= computed
        return [observed[text] for text in texts]

    def _remember(self, computed: dict[Text, Observation]) -> None:
        with self._lock:
            for text, observation in computed.items():
                if text not in self._known:  # another thread may have computed it too
                    self._known[text] = observation
                    self._characters += _characters(text)
            while self._characters > _MOST_CHARACTERS:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._characters -= _characters(oldest)


def _characters(text: Text) -> int:
    return max(_LEAST_CHARACTERS, len(text) if isinstance(text, str) else sum(map(len, text)))
