"""Storage for windows of counts: a folder, or a location in an object store."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from potstill.artifacts import remove_unfinished, write_text
from potstill.errors import ToolError, redacted
from potstill.inference.runtime import Text

# The file of the profile, and the suffixes of the files that a service writes for a window.
PROFILE, COUNTS, ANSWERS, TEXTS = "profile.json", ".counts.json", ".answers.jsonl", ".texts.jsonl"


class Store(Protocol):
    """Small files by name, each written atomically."""

    def write(self, name: str, text: str) -> None:
        """Write a file, replacing one of that name."""

    def names(self) -> list[str]:
        """List the names of all files in order."""

    def read(self, name: str) -> str:
        """Read a file."""

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""


class FolderStore:
    """A folder; it is created by the first write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_tidy = False

    def __str__(self) -> str:
        return str(self._folder)

    def write(self, name: str, text: str) -> None:  # noqa: D102
        if not self._is_tidy:
            remove_unfinished(self._folder)
            self._is_tidy = True
        write_text(self._folder / name, text)

    def names(self) -> list[str]:  # noqa: D102
        paths = self._folder.iterdir() if self._folder.is_dir() else iter(())
        return sorted(path.name for path in paths if path.is_file() and not path.name.startswith("."))

    def read(self, name: str) -> str:  # noqa: D102
        return (self._folder / name).read_text(encoding="utf-8")

    def remove(self, name: str) -> None:  # noqa: D102
        (self._folder / name).unlink(missing_ok=True)


class UrlStore:
    """A location that fsspec opens by its URL. BentoML installs fsspec; packages like s3fs or gcsfs are extra."""

    def __init__(self, url: str) -> None:
        require_package(url)
        self._files, self._root = file_system(url)
        self._url = url

    def __str__(self) -> str:
        return self._url

    def write(self, name: str, text: str) -> None:  # noqa: D102
        path = f"{self._root}/{name}"
        content = text.encode()
        try:
            self._files.pipe_file(path, content)
        except FileNotFoundError:
            self._make_folders()
            self._files.pipe_file(path, content)

    def _make_folders(self) -> None:
        """Create the folders below the first one: that is the bucket, and a missing bucket is a misspelt one."""
        parts = self._root.split("/")
        for end in range(2, len(parts) + 1):
            if not self._files.exists(folder := "/".join(parts[:end])):
                self._files.mkdir(folder, create_parents=False)

    def names(self) -> list[str]:  # noqa: D102
        self._files.invalidate_cache()
        try:
            entries: list[dict[str, Any]] = self._files.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        return sorted(item["name"].rsplit("/", 1)[-1] for item in entries if item["type"] == "file")

    def read(self, name: str) -> str:  # noqa: D102
        content: bytes = self._files.cat_file(f"{self._root}/{name}")
        return content.decode()

    def remove(self, name: str) -> None:  # noqa: D102
        if self._files.exists(path := f"{self._root}/{name}"):
            self._files.rm_file(path)


def file_system(location: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a path or URL, and the path there.

    Raises:
        ToolError: the URL's kind is unknown, or its package is not installed.
    """
    import fsspec  # type: ignore[import-untyped]

    try:
        files, path = fsspec.core.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise ToolError(redacted(f"{location} cannot be opened: {' '.join(str(error).split())}")) from error
    return files, path


def open_store(location: str) -> Store:
    """Open the store in a folder or at a URL.

    Raises:
        ToolError: the URL's kind is unknown, or its package is not installed.
    """
    return UrlStore(location) if "://" in location else FolderStore(Path(location))


def require_package(location: str) -> None:
    """Check that the package for a location is installed if it is a URL; nothing is opened.

    Raises:
        ToolError: the URL's kind is unknown, or its package is not installed.
    """
    kind, _, rest = location.partition("://")
    if not rest:
        return
    from fsspec.registry import known_implementations, registry  # type: ignore[import-untyped]

    if kind in registry:
        return
    if kind not in known_implementations:
        raise ToolError(f"{redacted(location)} cannot be opened: fsspec knows no {kind}:// (docs/watching.md)")
    package = known_implementations[kind]["class"].partition(".")[0]
    if find_spec(package) is None:
        raise ToolError(
            f"{redacted(location)} needs the package {package}, which is not installed; install it where the service "
            "runs, for a Bento by adding it to python.packages of bentofile.yaml (docs/watching.md)"
        )


def workspace_location(folder: str | None, workspace: Path) -> str | None:
    """Return `watch.folder` of a workspace as an absolute path or a URL; None where it is null."""
    return folder if folder is None or "://" in folder else str(workspace.resolve() / folder)


def candidate_location(location: str, candidate: str) -> str:
    """Return the location of the windows of one model within that of all models."""
    return f"{location.rstrip('/')}/{candidate[:12]}"


def text_sha256(text: Text) -> str:
    """Compute the sha256 that identifies a text; a pair is joined by a NUL."""
    return hashlib.sha256((text if isinstance(text, str) else "\0".join(text)).encode()).hexdigest()
