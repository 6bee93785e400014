"""Refuses unsafe files: pickles, object arrays, and archive entries that leave their folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from potstill.errors import UnsafeFileError
from potstill.pretrained.files import UNSAFE_SUFFIXES, unsafe_sentence

# The second byte of a pickle is its protocol. Protocols 0 and 1 have no such mark and are found by suffix only.
_PICKLE_MARKS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def refuse_unsafe(folder: Path) -> None:
    """Refuse a folder with a file that can run code when it is opened.

    Raises:
        UnsafeFileError: a file is a pickle by its suffix or first bytes, or a NumPy file of Python objects.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    refuse_unsafe_files((path.relative_to(folder).as_posix(), path) for path in paths)


def refuse_unsafe_files(files: Iterable[tuple[str, Path]]) -> None:
    """Refuse files that can run code when they are opened. Each is given with its name for messages.

    Raises:
        UnsafeFileError: see `refuse_unsafe`.
    """
    for name, path in files:
        if _is_unsafe(path):
            raise UnsafeFileError(unsafe_sentence(name))


def safe_name(name: str, archive: str) -> PurePosixPath:
    """Check the name of an archive's entry and return it as a relative path.

    Raises:
        UnsafeFileError: the path is absolute or leaves its folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise UnsafeFileError(
            f"{archive} holds an entry that would be written outside its folder: {name!r}; do not use it"
        )
    return path


def _is_unsafe(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in UNSAFE_SUFFIXES:
        return True
    if suffix in {".npy", ".npz"}:
        return _holds_objects(path)
    if suffix == ".safetensors":  # starts with a length, which may equal a pickle's mark
        return False
    with path.open("rb") as handle:
        return handle.read(2) in _PICKLE_MARKS


def _holds_objects(path: Path) -> bool:
    import numpy as np

    with path.open("rb") as handle:
        try:
            loaded = np.load(handle, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                return any(loaded[name].dtype.hasobject for name in loaded.files)
        except Exception:  # NumPy's own refusal of object arrays, or a damaged file, which nobody can judge
            return True
    return False
