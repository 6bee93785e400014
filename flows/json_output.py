"""Output of commands as JSON (`--json`)."""

from __future__ import annotations

import json
from typing import Any


def print_json(value: Any) -> None:
    """Print a value as JSON for people and programs: indented, and in the characters of every script."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
