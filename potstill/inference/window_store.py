"""Where windows of counts are kept: a folder, or a place in an object store."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from potstill.artifacts import write_text
from potstill.errors import ToolError
from potstill.inference.runtime import Text

# Ends of the names of what a service writes of a window.
PROFILE, COUNTS, ANSWERS, TEXTS = "profile.json", ".counts.json", ".answers.jsonl", ".texts.jsonl"


class Store(Protocol):
    """Small files by name, each written whole."""

    def write(self, name: str, text: str) -> None:
        """Keep a file; one of that name is replaced."""

    def names(self) -> list[str]:
        """All files, in order."""

    def read(self, name: str) -> str:
        """A file's content."""

    def remove(self, name: str) -> None:
        """Forget a file, there or not."""


class FolderStore:
    """A folder; made when something is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def write(self, name: str, text: str) -> None:  # noqa: D102
        write_text(self._folder / name, text)

    def names(self) -> list[str]:  # noqa: D102
        found = self._folder.iterdir() if self._folder.is_dir() else iter(())
        return sorted(path.name for path in found if path.is_file() and not path.name.startswith("."))

    def read(self, name: str) -> str:  # noqa: D102
        return (self._folder / name).read_text(encoding="utf-8")

    def remove(self, name: str) -> None:  # noqa: D102
        (self._folder / name).unlink(missing_ok=True)


class UrlStore:
    """A place that fsspec reaches by its URL; BentoML brings fsspec, a store's own package (s3fs, gcsfs) is extra."""

    def __init__(self, url: str) -> None:
        require_package(url)
        import fsspec  # type: ignore[import-untyped]

        try:
            self._files, self._place = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ToolError(f"{url} cannot be opened: {' '.join(str(error).split())}") from error
        self._url = url

    def __str__(self) -> str:
        return self._url

    def write(self, name: str, text: str) -> None:  # noqa: D102
        path, content = f"{self._place}/{name}", text.encode()
        try:
            self._files.pipe_file(path, content)
        except FileNotFoundError:
            self._make_folders()
            self._files.pipe_file(path, content)

    def _make_folders(self) -> None:
        """Those below the first, which in an object store is a bucket: one that is missing was misspelt."""
        parts = self._place.split("/")
        for end in range(2, len(parts) + 1):
            if not self._files.exists(folder := "/".join(parts[:end])):
                self._files.mkdir(folder, create_parents=False)

    def names(self) -> list[str]:  # noqa: D102
        self._files.invalidate_cache()
        try:
            found: list[dict[str, Any]] = self._files.ls(self._place, detail=True)
        except FileNotFoundError:
            return []
        return sorted(item["name"].rsplit("/", 1)[-1] for item in found if item["type"] == "file")

    def read(self, name: str) -> str:  # noqa: D102
        content: bytes = self._files.cat_file(f"{self._place}/{name}")
        return content.decode()

    def remove(self, name: str) -> None:  # noqa: D102
        if self._files.exists(path := f"{self._place}/{name}"):
            self._files.rm_file(path)


def open_store(place: str) -> Store:
    """The store at a folder or a URL.

    Raises:
        ToolError: the URL's kind is unknown, or its package is not installed.
    """
    return UrlStore(place) if "://" in place else FolderStore(Path(place))


def require_package(place: str) -> None:
    """See that a place can be opened, without opening it: where it is a URL, that its package is installed.

    Raises:
        ToolError: the URL's kind is unknown, or its package is not installed.
    """
    kind, _, rest = place.partition("://")
    if not rest:
        return
    from fsspec.registry import known_implementations, registry  # type: ignore[import-untyped]

    if kind in registry:
        return
    if kind not in known_implementations:
        raise ToolError(f"{place} cannot be opened: fsspec knows no {kind}:// (docs/watching.md)")
    package = known_implementations[kind]["class"].partition(".")[0]
    if find_spec(package) is None:
        raise ToolError(
            f"{place} needs the package {package}, which is not installed; install it where the service runs, for a "
            "Bento by adding it to python.packages of bentofile.yaml (docs/watching.md)"
        )


def below(place: str, candidate: str) -> str:
    """Where the windows of a model are kept, in the place of all."""
    return f"{place.rstrip('/')}/{candidate[:12]}"


def text_sum(text: Text) -> str:
    """The sha256 by which a text is found again; of a pair, over both with a NUL between."""
    return hashlib.sha256((text if isinstance(text, str) else "\0".join(text)).encode()).hexdigest()
