"""What an exception that other libraries have wrapped came from."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from potstill.errors import DiskFullError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# What libraries without an errno of their own say: the C library's words, SQLite's, and safetensors' (Rust).
_NO_SPACE_WORDS = (
    *(os.strerror(number).lower() for number in _NO_SPACE),
    "no space left on device",
    "disk quota exceeded",
    "database or disk is full",
    *(f"os error {number})" for number in _NO_SPACE),
    *(f"[errno {number}]" for number in _NO_SPACE),
)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those it came from, the outermost first, each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [current.__cause__, None if current.__suppress_context__ else current.__context__]
        # SQLAlchemy keeps the driver's exception as `orig`; requests and urllib3 keep theirs as `reason` or argument.
        inner += [getattr(current, name, None) for name in ("orig", "reason")] + list(current.args)
        waiting += [item for item in inner if isinstance(item, BaseException)]


def says_no_space(text: str) -> bool:
    """Whether a message of a library or a tool is about a full disk."""
    lowered = text.lower()
    return any(words in lowered for words in _NO_SPACE_WORDS)


def full_disk(error: BaseException, path: Path | None = None) -> DiskFullError | None:
    """The error to show where an exception came from a full disk or a used-up quota, else None.

    Args:
        error: as any library raised it.
        path: what was being written, where that is known.
    """
    for cause in causes(error):
        if isinstance(cause, DiskFullError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            return no_space(str(cause.filename or path or ""))
        if getattr(cause, "errno", None) is None and says_no_space(str(cause)):
            return no_space(str(path or ""))
    return None


def no_space(target: str) -> DiskFullError:
    """The error for a target that could not be written."""
    where = f" while writing {target}" if target else ""
    return DiskFullError(
        f"no space left{where}; free some space on that disk and run again, what was finished before is kept"
    )
