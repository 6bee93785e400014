"""Errors that occur only in the flow."""

from __future__ import annotations

from potstill.errors import PotstillError


class StageError(PotstillError):
    """A stage failed and has printed its sentence itself; carries the stage's exit code and sentence."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[StageError], tuple[str, int]]:
        return type(self), (str(self), self.exit_code)
