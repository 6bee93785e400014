"""A backup of a workspace's registry in one archive: MLflow's store with the ledger, all artifacts, dvc.lock, params.

The archive is a tar file. Its `manifest.json` has the sha256 of every other file and what the registry was. The Bentos
are in it, since the artifacts of each version hold its Bento. Data is DVC's to keep, and code is git's.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from potstill.artifacts import (
    MANIFEST,
    disk_errors,
    file_sums,
    first_difference,
    link_file,
    read_json,
    sha256_file,
    total_bytes,
    whole_file,
    write_manifest,
)
from potstill.compute.processes import hold
from potstill.config.params_file import load_params
from potstill.errors import (
    ChecksumError,
    DiskFullError,
    FormatError,
    OutputError,
    PotstillError,
    RegistryError,
    UnsafeFileError,
    redacted,
)
from potstill.paths import ARTIFACTS, DVC_LOCK, PARAMS, REGISTRY_LOCK, RUN_LOCK, STORE
from potstill.registry.artifact_locations import open_database, relocate
from potstill.registry.ledger import START
from potstill.registry.promotion import Registry
from potstill.registry.scratch_folders import scratch_folder
from potstill.registry.store_reader import reader
from potstill.registry.tracking import tracking_uri

_FILES = (PARAMS, DVC_LOCK)
_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Contents:
    """A registry at the time of its backup.

    Attributes:
        project: name of the project.
        versions: number of versions.
        champion: number of the champion, or None.
        lines: number of lines of the ledger.
        head: digest of the newest line.
    """

    project: str
    versions: int
    champion: str | None
    lines: int
    head: str


def back_up(workspace: Path, target: Path) -> tuple[Contents, list[str]]:
    """Write the registry of a workspace to an archive that does not exist yet. A run may go on meanwhile.

    Returns:
        What is in it, and a sentence for each version whose files are damaged.

    Raises:
        RegistryError: there is no registry in the workspace, or its ledger was edited.
        OutputError: the archive exists.
        ChecksumError: a file changed while it was read.
        DiskFullError: there is no space for the archive.
        BusyError: another process is changing the registry.
        StoreError: MLflow's store cannot be read.
    """
    _refuse_elsewhere(workspace)
    if not (workspace / STORE).exists():
        raise RegistryError(
            f"{workspace} has no registry yet, so there is nothing to back up; `potstill run` makes one"
        )
    if target.exists():
        raise OutputError(f"{target} exists; name another file, since a backup overwrites none")
    project = load_params(workspace / PARAMS).project.name
    with scratch_folder(workspace) as scratch:
        copy = scratch / "backup"
        copy.mkdir()
        with (
            disk_errors(target),
            hold(workspace / REGISTRY_LOCK, what="a change of the registry", wait_seconds=_WAIT_SECONDS),
        ):
            _copy_registry(workspace, copy)
        contents = _read(copy, project)
        problems = list(_problems(copy, project))
        write_manifest(copy, asdict(contents))
        _write_archive(copy, target)
    return contents, problems


def restore(archive: Path, workspace: Path) -> tuple[Contents, list[Path]]:
    """Verify an archive and restore it into a workspace without a registry: the whole of it, or nothing.

    Returns:
        What was restored, and those of `params.yaml` and `dvc.lock` that stayed although the backup has others.

    Raises:
        RegistryError: the workspace has a registry, or the archive is another project's.
        FormatError: the file is no backup.
        UnsafeFileError: it has links, or paths that lead out of it.
        ChecksumError: a file in it is missing or altered.
        DiskFullError: there is no space for it.
        BusyError: a run holds the workspace.
    """
    _refuse_elsewhere(workspace)
    with hold(workspace / RUN_LOCK, what="a run"), scratch_folder(workspace) as scratch:
        for path in (STORE, ARTIFACTS):
            if (workspace / path).exists():
                raise RegistryError(
                    f"{workspace / path} exists, and a restored registry replaces none; restore into another clone, or "
                    f"move {STORE} and {ARTIFACTS} away first"
                )
        copy = scratch / "backup"
        with disk_errors(copy):
            _extract(archive, copy)
        contents = _verified(copy, archive)
        _refuse_other_project(contents, workspace)
        kept = [path for path in _FILES if _differs(workspace / path, copy / path)]
        # The store comes last: with it the registry is there.
        for path in (ARTIFACTS, *_FILES, STORE):
            if (copy / path).exists() and not (workspace / path).exists():
                (copy / path).rename(workspace / path)
        relocate(workspace)
    return contents, kept


def _refuse_elsewhere(workspace: Path) -> None:
    """Raise RegistryError if the registry is not in the workspace."""
    if any(name in os.environ for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")):
        raise RegistryError(
            f"the registry is not in this workspace but at {redacted(tracking_uri(workspace))}: back up and restore "
            "the database and the artifacts of that server with their own tools; `potstill backup` and `restore` are "
            "for a workspace without MLFLOW_TRACKING_URI or servers.mlflow_url"
        )


# --- backup -----------------------------------------------------------------------------------------------------------


def _copy_registry(workspace: Path, copy: Path) -> None:
    """Copy a registry that nobody changes meanwhile; artifacts share their bytes with the originals where possible."""
    with (
        open_database((workspace / STORE).resolve(), "ro") as source,
        closing(sqlite3.connect(copy / STORE)) as database,
    ):
        source.backup(database)
    if (workspace / ARTIFACTS).exists():
        try:
            shutil.copytree(workspace / ARTIFACTS, copy / ARTIFACTS, copy_function=link_file)
        except shutil.Error as error:  # such as about the files of an upload that a run takes back
            raise _changed(error.args[0][0][0]) from error
    for path in _FILES:
        if (workspace / path).exists():
            shutil.copyfile(workspace / path, copy / path)


def _read(folder: Path, project: str) -> Contents:
    """Read and verify the ledger of a copied registry."""
    registry = Registry(folder, project, reader(folder))
    lines = registry.ledger.lines()
    head = lines[-1].digest if lines else START
    return Contents(project, len(registry.versions()), registry.history().champion, len(lines), head)


def _problems(folder: Path, project: str) -> Iterator[str]:
    """Yield what is wrong with the files of versions, which does not stop a backup of the others."""
    registry = Registry(folder, project, reader(folder))
    for version in registry.versions():
        try:
            registry.verify(version)
        except PotstillError as error:
            yield str(error)


def _write_archive(folder: Path, target: Path) -> None:
    """Write a folder as a tar file that appears whole, and read it again before it does."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{target} cannot be written ({error.strerror}); name a file in a folder") from error
    with disk_errors(target, total_bytes(folder)), whole_file(target) as handle:
        with tarfile.open(fileobj=handle, mode="w") as archive:
            for name in (MANIFEST, *read_json(folder / MANIFEST)["files"]):
                archive.add(folder / name, arcname=name, filter=_anonymous)
        handle.flush()
        if (changed := _first_changed(Path(handle.name))) is not None:
            raise _changed(changed)


def _changed(path: str) -> ChecksumError:
    return ChecksumError(f"{path} changed while it was backed up; run again")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _first_changed(archive: Path) -> str | None:
    """Return the first file of a written archive whose bytes are not those that its manifest lists."""
    with tarfile.open(archive) as content:
        files = {member.name: _opened(content, member) for member in content}
        expected = json.load(files.pop(MANIFEST))["files"]
        actual = {name: hashlib.file_digest(file, "sha256").hexdigest() for name, file in files.items()}
    difference = first_difference(actual, expected)
    return None if difference is None else difference[0]


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> io.BufferedReader:
    content = archive.extractfile(member)
    assert isinstance(content, io.BufferedReader)  # None for what is no file
    return content


# --- restore ----------------------------------------------------------------------------------------------------------


def _extract(archive: Path, folder: Path) -> None:
    """Unpack an archive of plain files into a new folder, and nothing outside of it."""
    try:
        with tarfile.open(archive, "r:") as content:
            members = content.getmembers()
            for member in members:
                if not member.isreg():
                    raise UnsafeFileError(f"{archive} has {member.name}, which is no plain file, so it is not restored")
            needed = sum(member.size for member in members)
            free = shutil.disk_usage(folder.parent).free
            if needed > free:
                raise DiskFullError(
                    f"{archive} holds {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; free some space, then "
                    "restore again"
                )
            content.extractall(folder, members, filter="data")
    except tarfile.FilterError as error:
        raise UnsafeFileError(f"{archive} is not restored: {error}") from error
    except (tarfile.TarError, EOFError) as error:
        raise FormatError(f"{archive} is no backup of Potstill, or it was cut off ({error})") from error
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(f"{archive} does not exist; name a file that `potstill backup` wrote") from None
    except IsADirectoryError:
        raise FormatError(f"{archive} is a folder; name a file that `potstill backup` wrote") from None


def _verified(folder: Path, archive: Path) -> Contents:
    """Check the files and the ledger of an unpacked archive."""
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        contents = Contents(**manifest["about"])
        expected = dict(manifest["files"])
    except (OSError, ValueError, TypeError, KeyError):
        raise FormatError(f"{archive} is no backup of Potstill: its {MANIFEST} is missing or another's") from None
    actual = file_sums(folder)
    actual.pop(MANIFEST)
    difference = first_difference(actual, expected)
    if difference is not None:
        name, state = difference
        raise ChecksumError(f"{name} in {archive} is {state}, so nothing was restored; take another backup")
    if _read(folder, contents.project) != contents:
        raise ChecksumError(f"the ledger in {archive} is not the one that was backed up; take another backup")
    return contents


def _refuse_other_project(contents: Contents, workspace: Path) -> None:
    if not (workspace / PARAMS).exists():
        return
    project = load_params(workspace / PARAMS).project.name
    if project != contents.project:
        raise RegistryError(
            f"the backup is of the project {contents.project}, and {workspace / PARAMS} names {project}; restore it "
            "into a workspace of that project"
        )


def _differs(present: Path, restored: Path) -> bool:
    return present.exists() and restored.exists() and sha256_file(present) != sha256_file(restored)
