"""Reads the bytes of a file, or of the only file inside a gz, zst, bz2, xz or zip file, up to a limit."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from potstill.errors import FormatError

# A file may always unpack to _SAFE_BYTES; beyond that only to _MAX_RATIO times its own size and to MAX_BYTES.
MAX_BYTES = 4 * 2**30
_MAX_RATIO = 200
_SAFE_BYTES = 256 * 2**20
_CHUNK = 2**20
_MARKS = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
SUFFIXES = {".gz": "gz", ".gzip": "gz", ".zst": "zst", ".zstd": "zst", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}
# Files that operating systems add to a zip archive.
_SYSTEM = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")
_WORKBOOK = "save the sheet as CSV UTF-8 (in Excel: Save as, CSV UTF-8; in LibreOffice: Save as, Text CSV)"
_DOCUMENT = "export its texts as CSV or JSON lines in UTF-8, one row a text"
_UNSUPPORTED = {
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers"), ("a spreadsheet", _WORKBOOK)),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf", ".html", ".htm"), ("a document", _DOCUMENT)),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), ("an archive", "unpack it, and name the file or the folder")),
    **dict.fromkeys(
        (".arrow", ".feather", ".orc", ".avro", ".sav", ".dta", ".rds", ".pkl", ".pickle", ".sqlite", ".db"),
        ("in a format that is not supported", "save it as Parquet, CSV or JSON lines"),
    ),
    **dict.fromkeys(
        (".xml", ".yaml", ".yml"), ("in a format that is not supported", "convert it to JSON lines or CSV")
    ),
}


@dataclass(frozen=True)
class Contents:
    """The contents of a file.

    Attributes:
        data: its bytes, unpacked.
        name: its name without the suffix of the compression. For a zip file the name of the file inside.
        compression: gz, zst, bz2, xz or zip; None for a file that is not compressed.
    """

    data: bytes
    name: str
    compression: str | None = None


def inner_name(path: Path) -> str:
    """Give a file's name without the suffix of a compression. For a zip file with one file inside, that one's name."""
    if path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = _members(archive)
        except _DAMAGE:  # whoever reads it says so
            names = []
        name = PurePosixPath(names[0].filename).name if len(names) == 1 else ""
        return name if PurePosixPath(name).suffix else path.stem
    return path.name.removesuffix(path.suffix) if path.suffix.lower() in SUFFIXES else path.name


def read_contents(path: Path) -> Contents:
    """Read a file, and unpack it if its first bytes say that it is compressed.

    Raises:
        FormatError: it is damaged, encrypted, too large, an office document, or holds several files.
    """
    refuse_unsupported(path)
    with path.open("rb") as handle:
        start = handle.read(512)
        compression = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
        handle.seek(0)
        if compression is None:
            _refuse_document(path, start)
            return Contents(handle.read(), path.name)
        try:
            if compression == "zip":
                return _from_zip(path, handle)
            data = _read_bounded(_OPENERS[compression](handle), path)
        except _DAMAGE as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise FormatError(
                f"{path.as_posix()} is a damaged or cut off {compression} file ({reason}); get it again, or unpack it "
                "by hand to see what is left"
            ) from error
    if data[257:262] == b"ustar":
        raise FormatError(f"{path.as_posix()} is an archive; unpack it, and name the file or the folder")
    return Contents(data, inner_name(path), compression)


def refuse_unsupported(path: Path) -> None:
    """Refuse a file whose suffix names a format that is not supported.

    Raises:
        FormatError: the format is not supported. The sentence says what to save the file as.
    """
    suffix = Path(inner_name(path)).suffix.lower()
    if suffix in _UNSUPPORTED:
        kind, advice = _UNSUPPORTED[suffix]
        raise FormatError(f"{path.as_posix()} is {kind}; {advice}")


def _refuse_document(path: Path, start: bytes) -> None:
    location = path.as_posix()
    if start.startswith(b"version https://git-lfs"):
        raise FormatError(f"{location} is a pointer of Git LFS, not the file itself; fetch it: git lfs pull")
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        raise FormatError(f"{location} is an old Office file, whatever its name says; {_WORKBOOK}")
    if start.startswith(b"%PDF"):
        raise FormatError(f"{location} is a PDF, whatever its name says; {_DOCUMENT}")
    if start[257:262] == b"ustar":
        raise FormatError(f"{location} is a tar archive; unpack it, and name the file or the folder")


def _from_zip(path: Path, handle: IO[bytes]) -> Contents:
    location = path.as_posix()
    with zipfile.ZipFile(handle) as archive:
        items = _members(archive)
        names = [item.filename for item in items]
        if "[Content_Types].xml" in names or names[:1] == ["mimetype"]:
            raise FormatError(f"{location} is a workbook or another Office file, whatever its name says; {_WORKBOOK}")
        if len(items) != 1:
            holds = f"{len(items)} files ({', '.join(names[:3])} ...)" if items else "no file"
            raise FormatError(f"{location} holds {holds}, not one; unpack it, and name the file or the folder")
        if items[0].flag_bits & 1:
            raise FormatError(f"{location} is encrypted with a password; unpack it, and name the file")
        with archive.open(items[0]) as stream:
            return Contents(_read_bounded(stream, path), PurePosixPath(names[0]).name, "zip")


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """List the files of an archive without those that operating systems add."""
    return [item for item in archive.infolist() if not item.is_dir() and not _is_system_file(item.filename)]


def _is_system_file(name: str) -> bool:
    return name.startswith(_SYSTEM[0]) or PurePosixPath(name).name in _SYSTEM


def _read_bounded(stream: Any, path: Path) -> bytes:
    """Read all bytes of a stream, up to the limit.

    Raises:
        FormatError: there are more.
    """
    limit = min(MAX_BYTES, max(_SAFE_BYTES, _MAX_RATIO * path.stat().st_size))
    parts: list[bytes] = []
    size = 0
    while part := stream.read(_CHUNK):
        size += len(part)
        if size > limit:
            raise FormatError(
                f"{path.as_posix()} unpacks to more than {limit / 1e6:,.0f} MB, of {path.stat().st_size / 1e6:,.1f}; "
                "if that is right, unpack it, and name the file itself"
            )
        parts.append(bytes(part))
    return b"".join(parts)


def _zstd(handle: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(handle, mode="r"), "zstd")


_OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gz": lambda handle: gzip.GzipFile(fileobj=handle),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "zst": _zstd,
}
# What the libraries raise for damaged files.
_DAMAGE = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
