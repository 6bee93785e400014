"""Outs that appear whole or not at all, and manifests that prove their bytes.

DVC, MLflow and BentoML do not notice a flipped bit; the manifests do. A manifest lies in the folder it describes as
`manifest.json` and lists the sha256 of every other file in it.
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
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no NaN, so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def sha256_value(value: Any) -> str:
    """Hex sha256 of a JSON-able value in its canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sums(folder: Path) -> dict[str, str]:
    """Relative POSIX path -> sha256 of every file below `folder`, manifests included, sorted by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path), beside.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Canonical JSON, written whole or not at all."""
    write_text(path, canonical_json(value))


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_manifest(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Describe `folder`: `files` maps each file to its sha256; `about` is anything its reader should know."""
    (folder / MANIFEST).unlink(missing_ok=True)
    write_json(folder / MANIFEST, {"files": file_sums(folder), "about": dict(about or {})})


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of `folder` against its manifest and return the manifest's `about`.

    Raises:
        ChecksumError: the manifest is missing, or a file is missing, added or altered.
    """
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise ChecksumError(
            f"{folder} has no readable {MANIFEST}; run the stage that makes it again (potstill run)"
        ) from error
    found = file_sums(folder)
    found.pop(MANIFEST, None)
    named = manifest["files"]
    for path in sorted(found.keys() | named.keys()):
        if found.get(path) == named.get(path):
            continue
        state = "missing" if path not in found else "not in the manifest" if path not in named else "altered"
        raise ChecksumError(
            f"{folder / path} is {state}: its bytes are not those the manifest names; "
            f"delete {folder} and run again to make it anew"
        )
    about: dict[str, Any] = manifest["about"]
    return about


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left", whichever library says it, into one sentence.

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
    """Yield an empty folder beside `path`; on success it replaces `path`, on failure nothing is left.

    The caller writes the manifest as its last step (`write_manifest`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        with disk_errors(path):
            yield beside
            _fsync_tree(beside)
        if path.exists():
            shutil.rmtree(path)
        beside.rename(path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _fsync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
