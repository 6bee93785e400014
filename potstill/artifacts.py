"""Atomic writes of files and folders, and manifests that verify their bytes.

DVC, MLflow and BentoML do not notice a flipped bit; a manifest does. It lies as `manifest.json` in the folder that it
describes and lists the sha256 of every other file there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from potstill.causes import full_disk
from potstill.errors import ChecksumError

MANIFEST = "manifest.json"


def sha256_file(path: Path) -> str:
    """Compute the sha256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Encode a value as JSON with sorted keys and no NaN, so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def sha256_value(value: Any) -> str:
    """Compute the sha256, in hex, of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sums(folder: Path) -> dict[str, str]:
    """Map the relative POSIX path of every file below `folder`, manifests included, to its sha256; sorted by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: to a temporary file in the same folder, with fsync, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path), temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON atomically."""
    write_text(path, canonical_json(value))


def read_json(path: Path) -> Any:
    """Read the value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_manifest(folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of `folder`: `files` maps each file to its sha256, `about` is the given metadata."""
    (folder / MANIFEST).unlink(missing_ok=True)
    write_json(folder / MANIFEST, {"files": file_sums(folder), "about": dict(metadata or {})})


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of `folder` against its manifest and return the manifest's metadata.

    Raises:
        ChecksumError: the manifest is missing, or a file is missing, added or altered.
    """
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise ChecksumError(
            f"{folder} has no readable {MANIFEST}; run the stage that makes it again (potstill run)"
        ) from error
    actual = file_sums(folder)
    actual.pop(MANIFEST, None)
    difference = first_difference(actual, manifest["files"])
    if difference is not None:
        path, state = difference
        raise ChecksumError(
            f"{folder / path} is {state}: its bytes are not those the manifest names; "
            f"delete {folder} and run again to make it anew"
        )
    metadata: dict[str, Any] = manifest["about"]
    return metadata


def is_whole(*folders: Path) -> bool:
    """Whether all folders exist and verify against their manifests."""
    try:
        for folder in folders:
            verify(folder)
    except ChecksumError:
        return False
    return True


def first_difference(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[str, str] | None:
    """Find the first file whose sha256 is not the expected one, or None.

    Returns:
        Its path, and what is wrong with it: "missing", "not in the manifest" or "altered".
    """
    for path in sorted(actual.keys() | expected.keys()):
        if path not in actual:
            return path, "missing"
        if path not in expected:
            return path, "not in the manifest"
        if actual[path] != expected[path]:
            return path, "altered"
    return None


def link_file(source: Path | str, target: Path | str) -> None:
    """Make a file share its bytes on disk with another; copy them where that is not possible."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise DiskFullError for "no space left", whichever library reports it.

    Raises:
        DiskFullError: the disk is full or a quota is used up.
    """
    try:
        yield
    except Exception as error:
        if (full := full_disk(error, path)) is None:
            raise
        raise full from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` on success; on failure nothing is left of it.

    The caller writes the manifest last (`write_manifest`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with disk_errors(path):
            yield temporary
            _fsync_tree(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fsync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
