"""What an exception that other libraries have wrapped came from."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
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
# NumPy and torch only say that less was written than was asked for.
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written|enforce fail at inline_container|PytorchStreamWriter failed")
# Failures of the machine that no code can avoid: rights, a read-only or broken disk, limits on files and memory.
_MACHINE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ELOOP}
)
# Tools whose own exceptions are about their state, by the package that defines the exception.
_TOOLS = {
    "mlflow": "MLflow",
    "sqlalchemy": "MLflow's database",
    "dvc": "DVC",
    "dvc_objects": "DVC",
    "scmrepo": "DVC",
    "prefect": "Prefect",
    "bentoml": "BentoML",
    "huggingface_hub": "the hub's client",
    "httpx": "a connection",
    "requests": "a connection",
}


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
    return any(words in lowered for words in _NO_SPACE_WORDS) or _CUT_SHORT.search(text) is not None


def full_disk(error: BaseException, target: object = "") -> DiskFullError | None:
    """The error to show where an exception came from a full disk or a used-up quota, else None.

    Args:
        error: as any library raised it.
        target: what was being written, where that is known.
    """
    for cause in causes(error):
        if isinstance(cause, DiskFullError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            return no_space(str(cause.filename or target))
        if getattr(cause, "errno", None) is None and says_no_space(str(cause)):
            return no_space(str(target))
    return None


def no_space(target: str) -> DiskFullError:
    """The error for a target that could not be written."""
    where = f" while writing {target}" if target else ""
    return DiskFullError(
        f"no space left{where}; free some space on that disk and run again, what was finished before is kept"
    )


def unexpected(error: Exception, log: Path) -> tuple[str, int]:
    """The sentence and the exit code for an exception that nobody turned into one of Potstill's errors.

    Only what neither a tool, the machine nor a full disk explains is called a bug.

    Args:
        error: as it arrived at the top.
        log: where the traceback goes, if it can be written.
    """
    if (disk := full_disk(error, Path.cwd())) is not None:
        return str(disk), disk.exit_code
    kept = ""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        kept = f"traceback in {log}"
    text, kind = " ".join(str(error).split())[:300], type(error).__name__
    if (culprit := _culprit(error)) is not None:
        return f"{culprit} failed with {kind}: {text}" + (f" ({kept})" if kept else ""), 1
    return f"unexpected {kind}: {text} ({kept + '; ' if kept else ''}this is a bug of Potstill)", 1


def _culprit(error: Exception) -> str | None:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return "a connection"
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _MACHINE:
        return "this machine"
    return _TOOLS.get(type(error).__module__.partition(".")[0])
