"""Extracts named files from zip and tar archives, and from archives inside them."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from potstill.data.fetching.safety import safe_name
from potstill.errors import FetchError, UnsafeFileError

Opener = Callable[[], IO[bytes]]
# A nested archive with more bytes than this is unpacked to the temporary folder rather than to memory.
_IN_MEMORY = 64 * 2**20


def extract(archive: Path, members: Sequence[str], folder: Path) -> None:
    """Write members of an archive into `folder`.

    Args:
        archive: a zip file (wheel) or a tar file. The top folder of a source distribution is not part of the names.
        members: paths inside the archive. `!` enters an archive: `a/b.tar.gz!c/d.txt`. A file is written under its
            last name. A folder (ending with `/`) gives all files below it, with their structure.
        folder: the target folder.

    Raises:
        FetchError: not an archive, or no such member.
        UnsafeFileError: an entry that leaves its folder, or a link.
    """
    with archive.open("rb") as handle:
        _extract(handle, archive.name, members, folder)


def _extract(handle: IO[bytes], label: str, members: Sequence[str], folder: Path) -> None:
    entries = _entries(handle, label)
    nested: dict[str, list[str]] = {}
    for member in members:
        outer, inside, rest = member.partition("!")
        if inside:
            nested.setdefault(outer, []).append(rest)
        else:
            _write(entries, label, member, folder)
    for outer, inner in nested.items():
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy, _find(entries, label, outer)() as stored:
            shutil.copyfileobj(stored, copy, 2**20)
            copy.seek(0)
            _extract(copy, f"{label}!{outer}", inner, folder)


def _write(entries: dict[str, Opener | None], label: str, member: str, folder: Path) -> None:
    if member.endswith("/"):
        names = [name for name in entries if name.startswith(member)]
        if not names:
            raise FetchError(_missing_member(entries, label, member))
    else:
        names = [member]
    for name in names:
        relative = safe_name(name.removeprefix(member) if member.endswith("/") else PurePosixPath(name).name, label)
        target = folder / relative
        if target.exists():
            raise FetchError(f"two members of {label} would both be written as {relative}; name only one of them")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _find(entries, label, name)() as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**20)


def _find(entries: dict[str, Opener | None], label: str, name: str) -> Opener:
    if name not in entries:
        raise FetchError(_missing_member(entries, label, name))
    opener = entries[name]
    if opener is None:
        raise UnsafeFileError(f"{name} in {label} is a link or device, not a file; name the file itself")
    return opener


def _missing_member(entries: dict[str, Opener | None], label: str, member: str) -> str:
    import difflib

    near = difflib.get_close_matches(member, entries, n=3, cutoff=0.4) or sorted(entries)[:5]
    return f"{label} has no {member}; it has, among {len(entries)} files, {', '.join(near)}"


def _entries(handle: IO[bytes], label: str) -> dict[str, Opener | None]:
    """Map the names of an archive's entries to their openers, or to None for links and devices."""
    if zipfile.is_zipfile(handle):
        handle.seek(0)
        archive = zipfile.ZipFile(handle)
        return {item.filename: partial(archive.open, item) for item in archive.infolist() if not item.is_dir()}
    handle.seek(0)
    try:
        tar = tarfile.open(fileobj=handle)  # noqa: SIM115 - read through the openers, closed with its handle
        items = [item for item in tar.getmembers() if not item.isdir()]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FetchError(
            f"{label} is neither a zip nor a tar archive; check the requirement and its members"
        ) from error
    top = _top_folder(items)
    return {item.name.removeprefix(top): partial(_open_file, tar, item) if item.isreg() else None for item in items}


def _top_folder(items: Sequence[tarfile.TarInfo]) -> str:
    """Find the folder `name-version/` of a source distribution, which has a PKG-INFO. Empty for another archive."""
    tops = {item.name.partition("/")[0] for item in items}
    if len(tops) != 1:
        return ""
    top = f"{tops.pop()}/"
    return top if any(item.name == f"{top}PKG-INFO" for item in items) else ""


def _open_file(tar: tarfile.TarFile, item: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(item)
    assert stream is not None  # the entry is a regular file
    return stream
