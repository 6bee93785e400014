"""What all perturbations share: the result of a change that may not apply."""

from __future__ import annotations


def unless_equal(text: str, changed: str) -> str | None:
    """Return a changed text; None if the change left it as it was."""
    return None if changed == text else changed
