"""The artifacts of a version in the registry: serving folder and Bento, verified before use.

MLflow calls a version READY even if its source is missing, and downloads a corrupt artifact without an error. The
checksums that are trusted here are those that the ledger recorded when the version was registered.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from potstill import paths
from potstill.artifacts import (
    BENTO_IMAGE,
    BENTO_SIGNATURE,
    MANIFEST,
    file_sums,
    first_difference,
    read_json,
    sha256_file,
    sha256_value,
    whole_folder,
    write_manifest,
    write_text,
)
from potstill.errors import ChecksumError, RegistryError
from potstill.registry.artifact_locations import local_folder
from potstill.registry.model_card import CARD
from potstill.registry.scratch_folders import scratch_folder
from potstill.registry.store_calls import bounded, suppress_answers
from potstill.registry.tracking import client, tracking_uri
from potstill.registry.versions import Version, candidate_sum

# The serving folder in a version's artifacts (MLflow's layout of a model with a loader module and data).
SERVING = "data/serving"
# The version's Bentos, each under its own version and without the serving folder, which is stored once.
BENTOS = "bento"
# What a version was judged by, under the sha256 of its manifest.
EVIDENCE_FOLDER = "evidence"
# The serving folder in a Bento.
_SERVING_IN_BENTO = f"src/{paths.SERVING}"


def pack_bento(bento: Path, folder: Path) -> str:
    """Copy a Bento without its serving folder, in the layout of a version's artifacts.

    Args:
        bento: a sealed Bento in BentoML's store.
        folder: where `BENTOS/<version>` is created.

    Returns:
        The sha256 of the Bento, which the ledger keeps.
    """
    listed = read_json(bento / MANIFEST)["files"]
    target = folder / BENTOS / bento.name
    signature = [BENTO_SIGNATURE] * (bento / BENTO_SIGNATURE).exists()
    for path in [MANIFEST, *listed, *_image_files(bento), *signature]:
        if not path.startswith(f"{_SERVING_IN_BENTO}/"):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bento / path, target / path)
    return _seal(bento)


def pack_evidence(files: Mapping[str, Path], card: str, folder: Path) -> str:
    """Copy what a version was judged by, in the layout of a version's artifacts.

    Args:
        files: name -> file; those that do not exist are left out.
        card: the model card, which MLflow's page of the artifacts shows first.
        folder: where `EVIDENCE_FOLDER/<sum>` and the card are created.

    Returns:
        The sha256 of the evidence's manifest, which the ledger keeps.
    """
    write_text(folder / CARD, card)
    new = folder / EVIDENCE_FOLDER / "new"
    write_text(new / CARD, card)
    for name, path in files.items():
        if path.exists():
            shutil.copyfile(path, new / name)
    write_manifest(new)
    seal = sha256_file(new / MANIFEST)
    new.rename(new.with_name(seal[:12]))
    return seal


def verify_version(version: Version, facts: Mapping[str, Any], workspace: Path) -> None:
    """Check a version's artifacts in the registry against the checksums in the ledger.

    Args:
        version: the version.
        facts: facts of the ledger's line that registered it.
        workspace: the workspace.

    Raises:
        RegistryError: the artifacts are gone, or the Bento is missing.
        ChecksumError: a file differs.
    """
    with _artifacts(version, workspace, [SERVING, _bento_folder(facts)]) as (serving, bento):
        _verify_serving(version, serving)
        _verify_bento(version, facts, serving, bento)


def lacking(version: Version, facts: Mapping[str, Any], workspace: Path) -> str | None:
    """Name what a version's artifacts lack, "model" or "Bento"; None where they have both or are not on this machine.

    Args:
        version: the version.
        facts: facts of the ledger's line that registered it.
        workspace: the workspace.
    """
    folder = local_folder(version.source, workspace)
    if folder is None:
        return None
    if not (folder / SERVING / MANIFEST).exists():
        return "model"
    return None if facts["seal"] and (folder / _bento_folder(facts) / MANIFEST).exists() else "Bento"


def delete_model(workspace: Path, model_id: str | None) -> None:
    """Delete a logged model with its files, on this machine or in the store's; None, or one that is gone, is nothing.

    Raises:
        StoreError: the store cannot be reached.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if model_id is None:
        return
    store = client(workspace)
    with suppress_answers("RESOURCE_DOES_NOT_EXIST"):
        location = store.get_logged_model(model_id).artifact_location
        uri = tracking_uri(workspace)
        files = get_artifact_repository(str(local_folder(location, workspace) or location), tracking_uri=uri)
        bounded(uri, files.delete_artifacts, transfer=True)
        store.delete_logged_model(model_id)


def copy_serving(version: Version, folder: Path, workspace: Path) -> None:
    """Copy the verified serving folder of a version to `folder`.

    Raises:
        RegistryError: the artifacts are gone.
        ChecksumError: a file differs from what was registered.
    """
    with _artifacts(version, workspace, [SERVING]) as (serving,):
        _verify_serving(version, serving)
        with whole_folder(folder) as copy:
            shutil.copytree(serving, copy, dirs_exist_ok=True)


def copy_bento(version: Version, facts: Mapping[str, Any], folder: Path, workspace: Path) -> None:
    """Copy the verified Bento of a version to `folder`, byte for byte as it was packaged.

    Args:
        version: the version.
        facts: facts of the ledger's line that registered it.
        folder: the new folder of the Bento.
        workspace: the workspace.

    Raises:
        RegistryError: the artifacts are gone, or the Bento is missing.
        ChecksumError: a file differs from what was registered.
    """
    with _artifacts(version, workspace, [SERVING, _bento_folder(facts)]) as (serving, bento):
        _verify_serving(version, serving)
        _verify_bento(version, facts, serving, bento)
        with whole_folder(folder) as copy:
            shutil.copytree(bento, copy, dirs_exist_ok=True)
            shutil.copytree(serving, copy / _SERVING_IN_BENTO)


def copy_evidence(version: Version, seal: str, folder: Path, workspace: Path) -> None:
    """Copy the verified evidence of a version to `folder`.

    Args:
        version: the version.
        seal: sha256 of the evidence's manifest, as the ledger has it.
        folder: the new folder.
        workspace: the workspace.

    Raises:
        RegistryError: the artifacts are gone.
        ChecksumError: a file differs from what was registered.
    """
    part = f"{EVIDENCE_FOLDER}/{seal[:12]}"
    with _artifacts(version, workspace, [part]) as (evidence,):
        actual = file_sums(evidence)
        _compare(version, part, actual, {**_listed_files(version, evidence), MANIFEST: seal})
        with whole_folder(folder) as copy:
            shutil.copytree(evidence, copy, dirs_exist_ok=True)


@contextmanager
def _artifacts(version: Version, workspace: Path, parts: list[str]) -> Iterator[list[Path]]:
    """Yield folders of a version's artifacts: in place if they are on this machine, else downloaded."""
    folder = local_folder(version.source, workspace)
    if folder is not None:
        yield [_existing(version, folder / part) for part in parts]
        return
    with scratch_folder(workspace) as scratch:
        yield [_download(version, part, scratch, workspace) for part in parts]


def _download(version: Version, part: str, scratch: Path, workspace: Path) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    source = f"{version.source.rstrip('/')}/{part}"
    uri = tracking_uri(workspace)
    try:
        folder = Path(download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise _missing_artifacts(version) from error
    return _existing(version, folder)


def _existing(version: Version, folder: Path) -> Path:
    if not folder.is_dir():
        raise _missing_artifacts(version)
    return folder


def _missing_artifacts(version: Version) -> RegistryError:
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


def _verify_serving(version: Version, serving: Path) -> None:
    actual = file_sums(serving)
    _compare(version, SERVING, actual, {**_listed_files(version, serving), MANIFEST: actual.get(MANIFEST)})
    if candidate_sum(serving) != version.candidate:
        raise ChecksumError(
            f"version {version.version} at {version.source} does not hold the bytes it was registered with; "
            "delete the version and run again"
        )


def _verify_bento(version: Version, facts: Mapping[str, Any], serving: Path, bento: Path) -> None:
    folder = _bento_folder(facts)
    listed = _listed_files(version, bento)
    if _seal(bento) != facts.get("seal"):
        raise ChecksumError(
            f"the Bento of version {version.version} at {version.source}/{folder} is not the one that was registered; "
            "restore the artifacts from a backup, or run again"
        )
    # A signature is verified by the key that is trusted (`signatures`), wherever one is required.
    sums = file_sums(bento)
    actual = {path: sums[path] for path in sums if path != BENTO_SIGNATURE and not path.startswith(f"{BENTO_IMAGE}/")}
    actual |= {f"{_SERVING_IN_BENTO}/{path}": value for path, value in file_sums(serving).items()}
    _compare(version, folder, actual, {**listed, MANIFEST: actual[MANIFEST]})


def _seal(bento: Path) -> str:
    return sha256_value({"manifest": sha256_file(bento / MANIFEST), "image": _image_files(bento)})


def _image_files(bento: Path) -> dict[str, str]:
    """Map the files of the image recipe, which the manifest of a Bento does not list, to their sha256."""
    return {path: value for path, value in file_sums(bento).items() if path.startswith(f"{BENTO_IMAGE}/")}


def _listed_files(version: Version, folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / MANIFEST)["files"])
    except (OSError, ValueError, TypeError, KeyError):
        raise ChecksumError(
            f"{MANIFEST} of {folder.name} of version {version.version} at {version.source} is missing or altered; "
            "restore the artifacts from a backup"
        ) from None


def _compare(version: Version, folder: str, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    difference = first_difference(actual, expected)
    if difference is not None:
        path, state = difference
        raise ChecksumError(
            f"{version.source}/{folder}/{path} is {state}: it is not what version {version.version} was registered "
            "with; restore the artifacts from a backup, or delete the version and run again"
        )
