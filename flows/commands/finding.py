"""The result of a check of `potstill doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: subject of the check.
        ok: whether it passed.
        detail: what the check saw.
        advice: what to do if it failed, or about what is only noted.
        noted: whether it passed and is worth a look.
    """

    name: str
    ok: bool
    detail: str
    advice: str = ""
    noted: bool = False

    @property
    def line(self) -> str:
        """The line that is printed."""
        word = "note" if self.noted else "ok  " if self.ok else "FAIL"
        advice = f" - {self.advice}" if self.advice and (self.noted or not self.ok) else ""
        return f"{word} {self.name:<10} {self.detail}{advice}"
