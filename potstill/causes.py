"""The root causes of exceptions that other libraries have wrapped."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from potstill.errors import DiskFullError, PotstillError, ToolError, redacted

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# Messages of libraries whose exceptions have no errno: the C library, SQLite, and safetensors (Rust).
_NO_SPACE_WORDS = (
    *(os.strerror(number).lower() for number in NO_SPACE),
    "no space left on device",
    "disk quota exceeded",
    "database or disk is full",
    *(f"os error {number})" for number in NO_SPACE),
    *(f"[errno {number}]" for number in NO_SPACE),
)
# NumPy and torch only report that less was written than was requested.
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written|enforce fail at inline_container|PytorchStreamWriter failed")
_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("bytes", 1))
# Errors about what this user may not do, or nobody in a workspace that is read-only.
DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# Failures of the machine that no code can avoid: permissions, a broken disk, limits on files and memory.
_MACHINE_ERRNOS = DENIED | {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ELOOP}
# Packages whose modules are here; any other module that is not found is of a package that is not installed.
_OUR_PACKAGES = frozenset({"potstill", "tasks", "flows"})
# Tools whose exceptions are about their own state, by the package that defines the exception.
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
    """Yield an exception and its causes, the outermost first, each once."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = [current.__cause__, None if current.__suppress_context__ else current.__context__]
        # SQLAlchemy keeps the driver's exception as `orig`; requests and urllib3 keep it as `reason` or as an argument.
        inner += [getattr(current, name, None) for name in ("orig", "reason")] + list(current.args)
        waiting += [item for item in inner if isinstance(item, BaseException)]


def says_no_space(text: str) -> bool:
    """Whether the message of a library or a tool reports a full disk."""
    lowered = text.lower()
    return any(words in lowered for words in _NO_SPACE_WORDS) or _SHORT_WRITE.search(text) is not None


def full_disk(error: BaseException, target: object = "", needed: int = 0) -> DiskFullError | None:
    """Return the error to show if an exception was caused by a full disk or an exhausted quota, else None.

    Args:
        error: the exception, from any library.
        target: the file, folder or store that was being written, if known.
        needed: bytes that it takes at least, if known.
    """
    for cause in causes(error):
        if isinstance(cause, DiskFullError):
            return cause
        if copies := _failed_copies(cause):
            sizes = [os.path.getsize(source) for source, _ in copies if os.path.isfile(source)]
            return _disk_full(cause, os.path.abspath(copies[0][1]), max(needed, sum(sizes)))
        if isinstance(cause, OSError) and cause.errno in NO_SPACE:
            path = os.path.abspath(cause.filename) if isinstance(cause.filename, str) else str(target)
            return _disk_full(cause, path, needed)
        if getattr(cause, "errno", None) is None and says_no_space(str(cause)):
            return _disk_full(cause, str(target), needed)
    return None


def _failed_copies(error: BaseException) -> list[tuple[str, str]]:
    """List source and target of copies for which there was no space, as `shutil` reports those of a file or tree."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return [(source, copy) for source, copy, reason in error.args[0] if says_no_space(reason)]
    if isinstance(error, OSError) and error.errno in NO_SPACE and error.filename2 is not None:
        return [(error.filename, error.filename2)]
    return []


def _disk_full(cause: BaseException, target: str, needed: int) -> DiskFullError:
    activity = f" while writing {target}" if target else ""
    sizes = [f"it takes at least {_size(needed)}"] if needed else []
    with suppress(OSError):
        if getattr(cause, "errno", None) != errno.EDQUOT:  # what is free on the disk is not what is left of a quota
            sizes.append(f"{_size(_free_bytes(target))} are free on that disk")
    space = f" ({', '.join(sizes)})" if sizes else ""
    return DiskFullError(
        f"no space left{activity}{space}; free some space on that disk and run again, what was finished before is kept"
    )


def _free_bytes(target: str) -> int:
    """Return how much is free on the disk of a file, folder or SQLite store.

    Raises:
        OSError: it is on no disk of this machine.
    """
    path = Path(target.removeprefix("sqlite:///"))
    if not path.is_absolute():
        raise FileNotFoundError(target)
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _size(count: int) -> str:
    """Write a number of bytes with three digits or so."""
    unit, size = next((unit, size) for unit, size in _UNITS if count >= size or size == 1)
    return f"{count / size:,.1f} {unit}" if size > 1 else f"{count} {unit}"


def machine_error(error: Exception) -> PotstillError | None:
    """Return the error to show if a full disk or something else of this machine caused an exception, else None."""
    return full_disk(error, Path.cwd()) or missing_from_machine(error)


def missing_from_machine(error: Exception) -> ToolError | None:
    """Return the error to show if a file may not be used or a package is not installed, else None."""
    if isinstance(error, OSError) and error.errno in DENIED and error.filename is not None:
        return ToolError(
            f"{error.filename} cannot be used ({error.strerror}); give this user the right to it, or work in a copy"
        )
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in _OUR_PACKAGES:
        return ToolError(
            f"the package {error.name} is not installed at {sys.executable}; install what requirements.lock names"
        )
    return None


def unexpected(error: Exception, log: Path) -> tuple[str, int]:
    """Return the message and the exit code for an exception that is none of Potstill's errors.

    It is called a bug only if neither a tool, the machine nor a full disk explains it.

    Args:
        error: the exception that reached the top level.
        log: file for the traceback; left out if it cannot be written.
    """
    if (about_machine := machine_error(error)) is not None:
        return str(about_machine), about_machine.exit_code
    traceback_note = ""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(redacted("".join(traceback.format_exception(error))), encoding="utf-8")
        traceback_note = f"traceback in {log}"
    message = f"{type(error).__name__}: {redacted(' '.join(str(error).split()))[:300]}"
    if (culprit := _culprit(error)) is not None:
        return f"{culprit} failed with {message}" + (f" ({traceback_note})" if traceback_note else ""), 1
    return f"unexpected {message} ({traceback_note + '; ' if traceback_note else ''}this is a bug of Potstill)", 1


def _culprit(error: Exception) -> str | None:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return "a connection"
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _MACHINE_ERRNOS:
        return "this machine"
    return _TOOLS.get(type(error).__module__.partition(".")[0])
