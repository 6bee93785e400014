"""The files to predict: listed by path, folder, pattern or URL, and opened unpacked."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import pyarrow as pa

from potstill.errors import FetchError, FormatError, PotstillError, redacted
from potstill.inference.window_store import file_system
from potstill.progress import say

FileFormat = Literal["csv", "tsv", "jsonl", "parquet"]
FORMATS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
# Suffixes of packed files, with the names of pyarrow's codecs.
_CODECS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
# Keys of what stores tell about a file that change with it, the surest first.
_STATES = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
_BUFFER = 2**16


@dataclass(frozen=True)
class InputFile:
    """A file to predict.

    Attributes:
        location: its path or URL without a password, as messages name it.
        format: the format of its rows.
        codec: how it is packed; None: it is not.
        size: its bytes, as it is stored; 0 where the store does not say.
        state: what changes when the file does: an entity tag, or the time of its last change.
        files: its file system of fsspec.
        path: its path there.
    """

    location: str
    format: FileFormat
    codec: str | None
    size: int
    state: str
    files: Any
    path: str

    @property
    def identity(self) -> list[Any]:
        """What tells the content of the file from any other, as plain values."""
        return [self.location, self.size, self.state]


@dataclass(frozen=True)
class OpenFile:
    """An open file: its unpacked bytes, and the file as it is stored."""

    stream: IO[bytes]
    stored: IO[bytes]

    @property
    def position(self) -> int:
        """The number of stored bytes that have been read."""
        return self.stored.tell()


def format_of_name(name: str) -> FileFormat | None:
    """Tell the format of a file by its suffix, after that of its packing; None: unknown."""
    path = PurePosixPath(name.lower())
    return FORMATS.get(PurePosixPath(path.stem).suffix if path.suffix in _CODECS else path.suffix)


def list_inputs(inputs: Sequence[str | InputFile], output: str) -> list[InputFile]:
    """List the files of paths, folders, patterns and URLs, each once, in the order of the arguments and by name.

    Args:
        inputs: as the user names them, or files that were listed before. Of folders and patterns, files of other
            formats are left out, and so are hidden ones.
        output: the path, in its file system, of the file that is written; it and what is kept next to it are left out
            too.

    Raises:
        FetchError: a file is not there, or nothing matches.
        FormatError: the suffix of a file names no known format.
        ToolError: the kind of a URL is unknown, or its package is not installed.
    """
    files: dict[tuple[str, str], InputFile] = {}
    for item in inputs:
        for file in _matching(item, output):
            files.setdefault((str(type(file.files)), file.path), file)
    return list(files.values())


def _matching(item: str | InputFile, output: str) -> list[InputFile]:
    if isinstance(item, InputFile):
        with store_errors(item.location):
            return [_input_file(item.files, item.path, item.location)]
    if not item:
        raise FetchError("an input has no name; name a file, a folder or a pattern of files")
    with store_errors(item):
        files, path = file_system(item)
        if files.isfile(path):
            return [_input_file(files, path, redacted(item))]
        is_pattern = any(sign in path for sign in "*?[") and not files.isdir(path)
        names = files.glob(path) if is_pattern else files.find(path)
        if is_pattern:
            names = [name for name in names if not files.isdir(name)]
        if is_local(files):
            _say_links(path, names)
        names = [name for name in names if not _is_written(_real_path(files, name), output)]
        listed = [_input_file(files, name, _location(files, name)) for name in _known_names(path, names)]
    if not listed:
        raise FetchError(
            f"{redacted(item)}: no file there; name a file, a folder or a pattern of {', '.join(FORMATS)} files"
        )
    return listed


def list_folder(folder: str) -> dict[str, InputFile]:
    """List the files of a folder and of those in it, by their paths below it; there may be none.

    Raises:
        FetchError: it is not there, or is no folder.
        ToolError: the kind of a URL is unknown, or its package is not installed.
    """
    with store_errors(folder):
        files, path = file_system(folder)
        files.invalidate_cache()
        if not files.isdir(path):
            raise FetchError(f"{redacted(folder)} is not there or is no folder; create it, or name another one")
        listed = {}
        for name in _known_names(path, files.find(path)):
            with suppress(FileNotFoundError):  # removed meanwhile, or a link to nothing
                listed[name.removeprefix(f"{path}/")] = _input_file(files, name, _location(files, name))
        return listed


def _is_written(path: str, output: str) -> bool:
    """Whether a file is the output of a run or what is kept next to it."""
    written = (output, f"{output}.rejected.jsonl", f"{output}.explained.jsonl")
    return path in written or path.startswith(f"{output}.parts/")


def _say_links(path: str, names: Sequence[str]) -> None:
    """Print the links to folders among the names below a path of this machine."""
    others = (name for name in names if not format_of_name(name) and not _is_hidden(name.removeprefix(path)))
    links = [name for name in others if os.path.isdir(name)]
    if links:
        say(f"predict: links to folders are not followed: {', '.join(sorted(links)[:5])}; name them too")


def _known_names(path: str, names: Sequence[str]) -> list[str]:
    """Sort the names of files below a path that have a known format and are not hidden."""
    return [name for name in sorted(names) if format_of_name(name) and not _is_hidden(name.removeprefix(path))]


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _location(files: Any, path: str) -> str:
    """Name a listed file: relative to the current folder where it is below that."""
    if not is_local(files):
        return redacted(files.unstrip_protocol(path))
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def is_local(files: Any) -> bool:
    """Whether a file system of fsspec is that of this machine."""
    return "file" in files.protocol


def _real_path(files: Any, path: str) -> str:
    """Follow the symbolic links of a path of this machine."""
    return os.path.realpath(path) if is_local(files) else path


def _input_file(files: Any, path: str, location: str) -> InputFile:
    file_format = format_of_name(path)
    if file_format is None:
        raise FormatError(
            f"{location}: the suffix names no known format; it has to be one of {', '.join(FORMATS)}, each also with "
            ".gz or .zst"
        )
    info = files.info(path)
    codec = _CODECS.get(PurePosixPath(path.lower()).suffix)
    return InputFile(location, file_format, codec, info["size"] or 0, state_of(info), files, path)


def changed_file(files: Sequence[InputFile]) -> InputFile | None:
    """Find a file that is another one than when it was listed. None: there is none; a deleted one is none.

    Raises:
        FetchError: a store does not answer.
    """
    for file in files:
        with store_errors(file.location), suppress(FileNotFoundError):
            if _input_file(file.files, file.path, file.location) != file:
                return file
    return None


@contextmanager
def open_input(file: InputFile) -> Iterator[OpenFile]:
    """Open a file and unpack it as it is read.

    Raises:
        FetchError: it cannot be opened, or its store fails while it is read.
        FormatError: it is damaged, or ends in the middle.
    """
    with store_errors(file.location):
        handle = file.files.open(file.path, "rb")
    with _format_errors(file.location), io.BufferedReader(_StoredFile(handle, file.location), _BUFFER) as stored:
        if file.codec is None:
            yield OpenFile(stored, handle)
            return
        unpacked = pa.CompressedInputStream(pa.PythonFile(stored, mode="r"), file.codec)
        with io.BufferedReader(unpacked, _BUFFER) as stream:
            yield OpenFile(stream, handle)


class _StoredFile(io.RawIOBase):
    """A file in its store, whose failures are told apart from damage of the file."""

    def __init__(self, handle: IO[bytes], location: str) -> None:
        self._handle = handle
        self._location = location

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with store_errors(self._location):
            content = self._handle.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with store_errors(self._location):
            return self._handle.seek(offset, whence)

    def tell(self) -> int:
        return self._handle.tell()

    def close(self) -> None:
        self._handle.close()
        super().close()


@contextmanager
def store_errors(location: str) -> Iterator[None]:
    """Turn what a store fails with into one sentence; its libraries raise exceptions of many types.

    Raises:
        FetchError: the file is not there or may not be read, or its store does not answer.
    """
    try:
        yield
    except PotstillError:
        raise
    except Exception as error:
        raise FetchError(
            f"{redacted(location)} cannot be read ({cause_of(error)}); check the name and that it may be read"
        ) from error


def cause_of(error: Exception) -> str:
    """Describe an error of a store in a few words."""
    return getattr(error, "strerror", None) or redacted(" ".join(str(error).split()))[:160] or type(error).__name__


def state_of(info: Mapping[str, Any]) -> str:
    """Return what a store tells about a file that changes when the file does."""
    return next((str(info[key]) for key in _STATES if info.get(key)), "")


@contextmanager
def _format_errors(location: str) -> Iterator[None]:
    """Turn what a damaged file fails with into one sentence."""
    try:
        yield
    except PotstillError:
        raise
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise FormatError(f"{location} is damaged or ends in the middle ({reason}); get it again") from error
