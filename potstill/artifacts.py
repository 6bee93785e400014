"""Atomic writes of files and folders, and manifests that verify their bytes.

DVC, MLflow and BentoML do not notice a flipped bit; a manifest does. It lies as `manifest.json` in the folder that it
describes and lists the sha256 of every other file there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from potstill.causes import full_disk
from potstill.errors import ChecksumError

MANIFEST = "manifest.json"
# The signature of a Bento, in its top folder. It signs the manifest too, which therefore cannot list it.
BENTO_SIGNATURE = "bento.sig"
# The image recipe of a Bento, which `bentoml containerize` rewrites: neither manifest nor signature covers it.
BENTO_IMAGE = "env/docker"


def sha256_file(path: Path) -> str:
    """Compute the sha256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """Compute the sha256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """Encode a value as JSON with sorted keys and no NaN, so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def sha256_value(value: Any) -> str:
    """Compute the sha256, in hex, of the canonical JSON of a value."""
    return sha256_text(canonical_json(value))


def file_sums(folder: Path) -> dict[str, str]:
    """Map the relative POSIX path of every file below `folder`, manifests included, to its sha256; sorted by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def total_bytes(folder: Path) -> int:
    """Sum the sizes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: see `whole_file`."""
    content = text.encode()
    with disk_errors(path, len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as handle:
            handle.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file in the same folder that replaces `path` on success; on failure nothing is left of it.

    A killed process leaves it. Its name is always the same, so that the next one that writes `path` or removes it
    (`remove_file`) takes it away. Of several that write `path` at once, each waits for the one before.
    """
    with _locked(_temporary(path)) as handle:
        try:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            os.replace(handle.name, path)
        except BaseException:
            Path(handle.name).unlink(missing_ok=True)
            raise


def remove_file(path: Path) -> None:
    """Remove a file if it exists, and what a killed process has left of one that was to replace it."""
    path.unlink(missing_ok=True)
    temporary = _temporary(path)
    if temporary.exists():
        with _locked(temporary):
            temporary.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left in a folder of files whose names nobody writes again."""
    for path in folder.glob(_temporary(Path("*")).name):
        if path.is_file():
            with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Yield an empty file to write, which no other process writes meanwhile."""
    while True:
        with open(path, "wb", opener=_open_as_it_is) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if is_at(handle.fileno(), path):  # else whoever held it has renamed or removed it
                handle.truncate()
                yield handle
                return


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _open_as_it_is(path: str, flags: int) -> int:
    """Open a file for writing, and keep its content: another process may be writing it."""
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def is_writable(folder: Path) -> bool:
    """Whether this user can write into a folder, or make it where it is missing."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def make_folder(path: Path) -> None:
    """Make a folder with its parents where it is missing, even if another process removes it meanwhile.

    Raises:
        OSError: it cannot be made, or there is a file of that name.
    """
    while not path.is_dir():
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if path.exists() and not path.is_dir():
                raise


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON atomically."""
    write_text(path, canonical_json(value))


def read_json(path: Path) -> Any:
    """Read the value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_if_present(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no file."""
    content: dict[str, Any] = read_json(path) if path.exists() else {}
    return content


def write_manifest(folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the manifest of `folder`: `files` maps each file to its sha256, `about` is the given metadata.

    `sum` is the sha256 of both, so that an altered manifest is noticed too.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    # As it will be read: numbers as keys are text in JSON, and text sorts otherwise.
    content = json.loads(canonical_json({"files": file_sums(folder), "about": dict(metadata or {})}))
    write_json(folder / MANIFEST, content | {"sum": sha256_value(content)})


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of `folder` against its manifest and return the manifest's metadata.

    Raises:
        ChecksumError: the manifest is missing or altered, or a file is missing, added or altered.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        content = {"files": dict(manifest["files"]), "about": dict(manifest["about"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChecksumError(
            f"{folder} has no readable {MANIFEST}; run the stage that makes it again (potstill run)"
        ) from error
    actual = file_sums(folder)
    actual.pop(MANIFEST, None)
    difference = first_difference(actual, content["files"])
    if difference is None and manifest not in (content | {"sum": sha256_value(content)}, content):
        difference = MANIFEST, "altered"
    if difference is not None:
        path, state = difference
        raise ChecksumError(
            f"{folder / path} is {state}: its bytes are not those the manifest names; "
            f"delete {folder} and run again to make it anew"
        )
    return content["about"]


def is_whole(*folders: Path) -> bool:
    """Whether all folders exist and verify against their manifests."""
    try:
        for folder in folders:
            verify(folder)
    except ChecksumError:
        return False
    return True


def lineage(candidate: str, files: Mapping[str, str], git_commit: str | None) -> dict[str, Any]:
    """Return what identifies a model in service; the header X-Lineage-Sum is the sum of this.

    Args:
        candidate: sha256 of the serving folder's manifest.
        files: file of the serving folder -> sha256.
        git_commit: commit at which it was packaged.
    """
    return {"candidate": candidate, "files": dict(files), "git_commit": git_commit}


def lineage_sum(candidate: str, files: Mapping[str, str], git_commit: str | None) -> str:
    """Compute the header X-Lineage-Sum of a model's answers; see `lineage` for the arguments."""
    return sha256_value(lineage(candidate, files, git_commit))


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
def disk_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Raise DiskFullError for "no space left", whichever library reports it.

    Args:
        path: what is written.
        needed: bytes that it takes at least, if known.

    Raises:
        DiskFullError: the disk is full or a quota is used up.
    """
    try:
        yield
    except Exception as error:
        if (full := full_disk(error, path.absolute(), needed)) is None:
            raise
        raise full from error


@contextmanager
def whole_folder(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` on success; on failure nothing is left of it.

    The caller writes the manifest last (`write_manifest`).

    Args:
        path: the folder.
        needed: bytes that it takes at least, if known, for the message about a full disk.

    Raises:
        DiskFullError: see `disk_errors`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with disk_errors(path, needed):  # outermost: what is free is said once nothing is left
        try:
            temporary.mkdir(parents=True)
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
