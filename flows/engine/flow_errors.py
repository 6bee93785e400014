"""Errors that occur only in the flow."""

from __future__ import annotations

from potstill.errors import PotstillError


class ElsewhereError(PotstillError):
    """A failure of what another process or machine ran; carries the exit code and the sentence from there."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[ElsewhereError], tuple[str, int]]:
        return type(self), (str(self), self.exit_code)


class StageError(ElsewhereError):
    """A stage failed and has printed its sentence itself."""
