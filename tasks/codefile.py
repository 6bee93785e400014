"""`code.yaml` of a workspace without the code: names the installed Potstill, so that DVC sees it change.

In Potstill's own folder the stages depend on its modules as files. A workspace made by `potstill init` has none of
them; each of its stages has `code.yaml` among its parameters instead.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from potstill import __version__
from potstill.artifacts import write_text
from potstill.errors import ToolError
from tasks.stage import code_sum

CODE_FILE = Path("code.yaml")
_HEAD = "# The installed Potstill that made what is here; `potstill run` keeps it true. A parameter of every stage.\n"


def installed() -> dict[str, str]:
    """Version and code hash of the Potstill that runs now."""
    return {"potstill": __version__, "tree": code_sum()}


def write_code_file(workspace: Path) -> None:
    """Name the installed Potstill in a workspace."""
    write_text(workspace / CODE_FILE, _HEAD + yaml.safe_dump(installed(), sort_keys=False))


def refresh_code_file(workspace: Path) -> str | None:
    """Bring `code.yaml` up to date where there is one; returns one sentence if it changed."""
    if not (workspace / CODE_FILE).exists():
        return None
    named = _read(workspace)
    if named == installed():
        return None
    write_code_file(workspace)
    before = _version(named)
    what = "its code was edited" if before == __version__ else f"{before} before, {__version__} now"
    return f"Potstill has changed ({what}), so every stage runs again"


def check_code_file(workspace: Path) -> None:
    """Refuse to run a stage with another Potstill than the one `code.yaml` names.

    Raises:
        ToolError: it differs; DVC would record outs under the wrong code.
    """
    if (workspace / CODE_FILE).exists() and (named := _read(workspace)) != installed():
        raise ToolError(
            f"{CODE_FILE} names another Potstill ({_version(named)}) than the installed one ({__version__}, or its "
            "code was edited); `potstill run` brings it up to date, then `dvc repro` works again"
        )


def _read(workspace: Path) -> object:
    try:
        return yaml.safe_load((workspace / CODE_FILE).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None


def _version(named: object) -> str:
    return str(named.get("potstill")) if isinstance(named, dict) else "unreadable"
