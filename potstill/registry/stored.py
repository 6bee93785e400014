"""A version's artifacts with the registry: the serving folder and the Bento, proven before anyone uses them.

A version whose source is missing is READY for MLflow, and a corrupt artifact downloads without a word. The sums that
are trusted here are those that the ledger noted when the version was registered.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from potstill.artifacts import MANIFEST, file_sums, read_json, sha256_file, sha256_value, whole_folder
from potstill.errors import ChecksumError, RegistryError
from potstill.paths import SCRATCH
from potstill.registry.process_identity import has_process
from potstill.registry.tracking import tracking_uri
from potstill.registry.versions import Version, candidate_sum

# Where the serving folder lies in a version's artifacts (MLflow's form of a model with a loader module and data).
SERVING = "data/serving"
# Where its Bentos lie, each under its version and without the serving folder, which is there already.
BENTOS = "bento"
# Where a Bento has the serving folder.
_INSIDE = f"src/{SERVING}"
_IMAGE = "env/docker/"


def pack_bento(bento: Path, folder: Path) -> str:
    """Copy what a Bento holds besides the serving folder, as a version's artifacts take it.

    Args:
        bento: a sealed Bento in BentoML's store.
        folder: where `BENTOS/<version>` is made.

    Returns:
        The sum of all of it, which the ledger keeps.
    """
    named = read_json(bento / MANIFEST)["files"]
    target = folder / BENTOS / bento.name
    for path in [MANIFEST, *named, *_image_files(bento)]:
        if not path.startswith(f"{_INSIDE}/"):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bento / path, target / path)
    return _seal(bento)


def prove(version: Version, facts: Mapping[str, Any], workspace: Path) -> None:
    """Check the registry's own bytes of a version against the sums that the ledger has of it.

    Args:
        version: the version.
        facts: of the ledger's line that registered it.
        workspace: the workspace.

    Raises:
        RegistryError: its artifacts are gone, or its Bento is not among them.
        ChecksumError: a byte differs.
    """
    with _artifacts(version, workspace, [SERVING, _bento_folder(facts)]) as (serving, bento):
        _prove_serving(version, serving)
        _prove_bento(version, facts, serving, bento)


def copy_serving(version: Version, folder: Path, workspace: Path) -> None:
    """Make `folder` the version's serving folder, proven.

    Raises:
        RegistryError: its artifacts are gone.
        ChecksumError: its bytes are not those it was registered with.
    """
    with _artifacts(version, workspace, [SERVING]) as (serving,):
        _prove_serving(version, serving)
        with whole_folder(folder) as copy:
            shutil.copytree(serving, copy, dirs_exist_ok=True)


def copy_bento(version: Version, facts: Mapping[str, Any], folder: Path, workspace: Path) -> None:
    """Make `folder` the version's Bento, byte for byte the one that was packaged.

    Args:
        version: the version.
        facts: of the ledger's line that registered it.
        folder: where the Bento goes.
        workspace: the workspace.

    Raises:
        RegistryError: its artifacts are gone, or its Bento is not among them.
        ChecksumError: its bytes are not those it was registered with.
    """
    with _artifacts(version, workspace, [SERVING, _bento_folder(facts)]) as (serving, bento):
        _prove_serving(version, serving)
        _prove_bento(version, facts, serving, bento)
        with whole_folder(folder) as copy:
            shutil.copytree(bento, copy, dirs_exist_ok=True)
            shutil.copytree(serving, copy / _INSIDE)


@contextmanager
def scratch_folder(workspace: Path) -> Iterator[Path]:
    """An empty folder below `.work/tmp` for the duration; those of processes that were killed are removed first."""
    home = workspace / SCRATCH
    home.mkdir(parents=True, exist_ok=True)
    clean_scratch(workspace)
    with tempfile.TemporaryDirectory(dir=home, prefix=f"{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def clean_scratch(workspace: Path) -> None:
    """Remove the scratch folders of processes that have ended."""
    for folder in (workspace / SCRATCH).glob("*-*"):
        pid = folder.name.partition("-")[0]
        if pid.isdecimal() and not has_process(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _artifacts(version: Version, workspace: Path, parts: list[str]) -> Iterator[list[Path]]:
    """Folders of a version's artifacts: where they are, if that is this machine's disk, else downloaded."""
    place = urlparse(version.source)
    if place.scheme in ("", "file"):
        yield [_present(version, Path(unquote(place.path)) / part) for part in parts]
        return
    with scratch_folder(workspace) as scratch:
        yield [_download(version, part, scratch, workspace) for part in parts]


def _download(version: Version, part: str, scratch: Path, workspace: Path) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    source, uri = f"{version.source.rstrip('/')}/{part}", tracking_uri(workspace)
    try:
        folder = Path(download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise _gone(version) from error
    return _present(version, folder)


def _present(version: Version, folder: Path) -> Path:
    if not folder.is_dir():
        raise _gone(version)
    return folder


def _gone(version: Version) -> RegistryError:
    return RegistryError(
        f"the artifacts of version {version.version} at {version.source} are gone; restore them from a backup, or "
        "delete the version"
    )


def _bento_folder(facts: Mapping[str, Any]) -> str:
    if not facts["seal"]:
        raise RegistryError(
            f"version {facts['version']} cannot be served: its Bento is not with the registry; run again to have it "
            "packaged and registered anew"
        )
    return f"{BENTOS}/{facts['bento'].partition(':')[2]}"


def _prove_serving(version: Version, serving: Path) -> None:
    named, found = _files_named(version, serving), file_sums(serving)
    _compare(version, SERVING, found, {**named, MANIFEST: found.get(MANIFEST)})
    if candidate_sum(serving) != version.candidate:
        raise ChecksumError(
            f"version {version.version} at {version.source} does not hold the bytes it was registered with; "
            "delete the version and run again"
        )


def _prove_bento(version: Version, facts: Mapping[str, Any], serving: Path, bento: Path) -> None:
    place = _bento_folder(facts)
    named = _files_named(version, bento)
    if _seal(bento) != facts.get("seal"):
        raise ChecksumError(
            f"the Bento of version {version.version} at {version.source}/{place} is not the one that was registered; "
            "restore the artifacts from a backup, or run again"
        )
    found = {path: value for path, value in file_sums(bento).items() if not path.startswith(_IMAGE)}
    found |= {f"{_INSIDE}/{path}": value for path, value in file_sums(serving).items()}
    _compare(version, place, found, {**named, MANIFEST: found[MANIFEST]})


def _seal(bento: Path) -> str:
    return sha256_value({"manifest": sha256_file(bento / MANIFEST), "image": _image_files(bento)})


def _image_files(bento: Path) -> dict[str, str]:
    """The recipe of the image with its sums: a Bento's manifest leaves it out, since it may be written anew."""
    return {path: value for path, value in file_sums(bento).items() if path.startswith(_IMAGE)}


def _files_named(version: Version, folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / MANIFEST)["files"])
    except (OSError, ValueError, TypeError, KeyError):
        raise ChecksumError(
            f"{MANIFEST} of {folder.name} of version {version.version} at {version.source} is missing or altered; "
            "restore the artifacts from a backup"
        ) from None


def _compare(version: Version, place: str, found: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    for path in sorted(found.keys() | named.keys()):
        if found.get(path) != named.get(path):
            state = "missing" if path not in found else "not in the manifest" if path not in named else "altered"
            raise ChecksumError(
                f"{version.source}/{place}/{path} is {state}: it is not what version {version.version} was registered "
                "with; restore the artifacts from a backup, or delete the version and run again"
            )
