"""The hops from a registered version to the bytes and the commit that it was made of, each verified now.

What the ledger recorded at the registration is trusted; everything else is compared with it. A hop whose files are not
on this machine is `not here`, which is no failure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from potstill.artifacts import MANIFEST, read_json, sha256_file, sha256_text
from potstill.errors import ChecksumError, PotstillError, RegistryError
from potstill.paths import DVC_LOCK, GIVEN, RAW
from potstill.registry.promotion import Registry
from potstill.registry.steps import edited_tags
from potstill.registry.tracking import COMMIT, client, has_commit
from potstill.registry.version_artifacts import verify_version
from potstill.registry.versions import DATA, PARAMS, Version

State = Literal["verified", "not here", "FAILED"]
# DVC's cache of a workspace, as DVC 3 lays it out.
_CACHE = Path(".dvc/cache/files/md5")
# Hop -> the out of DVC's pipeline that it verifies.
_OUTS = {"signals": "data/signals", "teacher": "data/teacher", "given": GIVEN.as_posix(), "raw": RAW.as_posix()}


class NotHereError(Exception):
    """The files of a hop are not on this machine."""


@dataclass(frozen=True)
class Hop:
    """A hop of a trace.

    Attributes:
        name: such as `Bento` or `dvc.lock`.
        state: the outcome of its verification.
        sentence: what it is, or what is wrong.
        error: the error of a failed hop.
    """

    name: str
    state: State
    sentence: str
    error: PotstillError | None = None

    def to_json(self) -> dict[str, str]:
        """The hop as plain values."""
        return {"hop": self.name, "state": self.state, "sentence": self.sentence}


def hop(name: str, verify: Callable[[], str]) -> Hop:
    """Verify a hop.

    Args:
        name: of the hop.
        verify: returns the sentence; raises NotHereError or a PotstillError.
    """
    try:
        return Hop(name, "verified", verify())
    except NotHereError as error:
        return Hop(name, "not here", str(error))
    except PotstillError as error:
        return Hop(name, "FAILED", str(error), error)


def trace_version(registry: Registry, version: Version, workspace: Path) -> list[Hop]:
    """Verify the hops from a version to the commit.

    Args:
        registry: the registry.
        version: the version.
        workspace: where files are looked for.
    """
    facts = registry.history().registered.get(version.version, {})
    hops = [
        hop("version", partial(_version, version, facts, registry)),
        hop("MLflow run", partial(_run, version, workspace)),
        hop("params", partial(_params, version, facts)),
        hop("evidence", partial(_evidence, registry, version)),
    ]
    data = json.loads(version.tags.get(DATA) or "{}")
    hops += [
        hop(name, partial(_out, path, data, workspace)) for name, path in _OUTS.items() if path in data or name == "raw"
    ]
    hops.append(hop("dvc.lock", partial(_lock, registry, version, data)))
    hops.append(hop("raw sums", partial(_raw_sums, version, data, workspace)))
    hops.append(hop("commit", partial(_commit, version, workspace)))
    return hops


def _version(version: Version, facts: Mapping[str, Any], registry: Registry) -> str:
    if not facts:
        raise RegistryError(f"version {version.version} is not in the registry's ledger, so nothing proves what it is")
    if edited := edited_tags(facts, version.tags):
        raise RegistryError(f"tag {edited[0]} of version {version.version} is not what was registered")
    verify_version(version, facts, registry.workspace)
    return f"version {version.version}, candidate {version.candidate}; its files in the registry are intact"


def _run(version: Version, workspace: Path) -> str:
    from mlflow.exceptions import MlflowException

    try:
        run = client(workspace).get_run(version.run_id)
    except MlflowException as error:
        raise RegistryError(f"run {version.run_id} is not in MLflow any more") from error
    if run.info.lifecycle_stage != "active":
        raise RegistryError(f"run {version.run_id} was deleted in MLflow")
    return f"run {version.run_id}, {run.info.status}"


def _params(version: Version, facts: Mapping[str, Any]) -> str:
    params = version.tags.get(PARAMS)
    if params is None:
        raise RegistryError(f"version {version.version} has no params")
    current = sha256_text(params)
    if facts.get("params", current) != current:
        raise RegistryError(f"tag {PARAMS} of version {version.version} is not what was registered")
    recorded = "the ledger has their sum" if "params" in facts else "the ledger of that time has no sum of them"
    return f"sha256 {current}; {recorded}"


def _evidence(registry: Registry, version: Version) -> str:
    folder = registry.fetch_evidence(version)
    if folder is None:
        raise NotHereError("the Potstill that registered it kept no evidence with versions")
    return f"metrics, verdict and answers are intact ({sha256_file(folder / MANIFEST)[:12]})"


def _lock(registry: Registry, version: Version, data: dict[str, str]) -> str:
    folder = registry.fetch_evidence(version)
    if folder is None or not (folder / DVC_LOCK.name).exists():
        raise NotHereError(f"{DVC_LOCK} is not with this version")
    current = lock_hashes(folder / DVC_LOCK.name)
    if current != data:
        path = next(name for name in sorted(current | data) if current.get(name) != data.get(name))
        raise ChecksumError(f"{DVC_LOCK} of version {version.version} has another hash of {path} than its tag {DATA}")
    return f"sha256 {sha256_file(folder / DVC_LOCK.name)}, {len(current)} outs"


def _out(path: str, data: Mapping[str, str], workspace: Path) -> str:
    expected = data.get(path)
    if expected is None:
        raise RegistryError(f"the version names no {path}")
    folder = workspace / path
    current = dvc_sum(folder) if folder.exists() else None
    if current == expected:
        return f"{path} {expected}, recomputed from the workspace"
    if _is_cached(expected, workspace / _CACHE):
        return f"{path} {expected}, recomputed from DVC's cache"
    if current is None:
        raise NotHereError(f"{path} {expected}; `dvc pull` may bring it")
    if _locked_hash(path, workspace) == expected:
        raise ChecksumError(f"{path} is {current} now, and {DVC_LOCK} says {expected}: it was altered")
    raise NotHereError(f"{path} {expected}; the workspace holds another one ({current})")


def _locked_hash(path: str, workspace: Path) -> str | None:
    lock = workspace / DVC_LOCK
    return lock_hashes(lock).get(path) if lock.exists() else None


def _raw_sums(version: Version, data: Mapping[str, str], workspace: Path) -> str:
    """Compare the sums of files that params name with the files, where the raw data is that of the version."""
    raw = workspace / RAW
    if not raw.exists() or dvc_sum(raw) != data.get(RAW.as_posix()):
        raise NotHereError(f"{RAW} of this version is not in the workspace")
    files = read_json(raw / MANIFEST)["files"]
    sources = json.loads(version.tags.get(PARAMS) or "{}").get("ingest", {}).get("data", {})
    sums = {f"{source}/{name}": value for source, facts in sources.items() for name, value in _sums(facts).items()}
    for name, expected in sums.items():
        current = next((value for path, value in files.items() if path == name or path.endswith(f"/{name}")), None)
        if current != expected:
            raise ChecksumError(f"{RAW}/{name} has sha256 {current}, and params name {expected}")
    return f"{len(sums)} of {len(files)} files have the sums that params name; the others those of the manifest"


def _sums(source: Mapping[str, Any]) -> dict[str, str]:
    sums: dict[str, str] = source.get("sums") or {}
    return sums


def _commit(version: Version, workspace: Path) -> str:
    commit = version.tags.get(COMMIT)
    if commit is None:
        raise NotHereError("it was made outside git, or before the first commit")
    if not has_commit(workspace, commit):
        raise NotHereError(f"{commit} is not in this clone; `git fetch` may bring it")
    state = "with changes that were not committed" if version.tags.get("potstill.git_dirty") == "true" else "clean"
    return f"{commit}, {state}"


# --- DVC's hashes -----------------------------------------------------------------------------------------------------


def lock_hashes(lock: Path) -> dict[str, str]:
    """Return out -> DVC hash of a dvc.lock."""
    import yaml

    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"].values()
    outs = (out for stage in stages for out in stage.get("outs", []))
    return {out["path"]: out[out.get("hash", "md5")] for out in outs}


def dvc_sum(path: Path) -> str:
    """Compute the hash by which DVC 3 names a file or a folder."""
    if path.is_file():
        return _md5(path)
    files = sorted(item for item in path.rglob("*") if item.is_file())
    listing = [{"md5": _md5(item), "relpath": item.relative_to(path).as_posix()} for item in files]
    content = json.dumps(sorted(listing, key=lambda item: item["relpath"]), sort_keys=True)
    return f"{hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()}.dir"


def _is_cached(expected: str, cache: Path) -> bool:
    """Whether DVC's cache holds a file or folder, all of it with the right hashes."""
    path = cache / expected[:2] / expected[2:]
    if not path.is_file() or _md5(path) != expected.removesuffix(".dir"):
        return False
    if not expected.endswith(".dir"):
        return True
    listed = [item["md5"] for item in json.loads(path.read_text(encoding="utf-8"))]
    return all(_is_cached(value, cache) for value in listed)


def _md5(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
