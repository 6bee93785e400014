"""package: builds an immutable Bento of the verified candidate, its limits and lineage, and the code that serves it.

The Bento's version is a digest of its content, so packaging the same candidate again finds the Bento built before.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from potstill import environment
from potstill.artifacts import (
    BENTO_SIGNATURE,
    MANIFEST,
    disk_errors,
    file_sums,
    sha256_file,
    sha256_value,
    total_bytes,
    verify,
    whole_folder,
    write_json,
)
from potstill.compute.processes import hold, run
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import ChecksumError, PackageError, PotstillError
from potstill.paths import BENTO_BUILD, LOGS, PARAMS, SERVING
from potstill.progress import say
from potstill.registry.scratch_folders import scratch_folder
from potstill.registry.signatures import sign_bento, signer_sum
from potstill.registry.tracking import git_tags
from potstill.serving.core import closure
from potstill.serving.launch import bento_environment, bento_path
from potstill.serving.release import SETTINGS, Settings, bento_name, served_threshold, verify_seal, write_seal
from tasks.identity import ROOT

BENTOFILE = "bentofile.yaml"
# How long a build waits for another one of the same name.
WAIT_SECONDS = 900.0
SERVICE = ("potstill.serving.service", "potstill.serving.worker")


@dataclass(frozen=True)
class Packaged:
    """A verified Bento in BentoML's store.

    Attributes:
        tag: `name:version`.
        path: its folder.
        candidate: sha256 of the serving folder's manifest.
    """

    tag: str
    path: Path
    candidate: str


def package(params: Params, workspace: Path) -> Packaged:
    """Build the Bento of the candidate in `data/serving`, or find the one that was built from the same bytes.

    Raises:
        ChecksumError: the serving folder is not what its manifest says.
        DiskFullError: there is no space for the Bento.
        ModelError: params ask for abstention, but the evaluation has no threshold.
        PackageError: there is nothing to package, or BentoML could not build it.
        SignatureError: the key that signs cannot be used.
    """
    workspace = workspace.resolve()
    verify(workspace / SERVING)
    candidate = sha256_file(workspace / SERVING / MANIFEST)
    build_dir = workspace / BENTO_BUILD
    commit = git_tags(workspace).get("mlflow.source.git.commit")
    settings = Settings(
        name=bento_name(params.project.name),
        serve=params.serve,
        watch=params.watch,
        git_commit=commit,
        abstain_below=served_threshold(workspace, params.serve, candidate),
        signer=signer_sum(params.sign, workspace),
    )
    with whole_folder(build_dir) as folder:
        _copy_files(workspace, folder)
        version = _version(folder, settings)
        write_json(folder / SETTINGS, settings.model_dump(mode="json"))
    tag = f"{settings.name}:{version}"
    path = bento_path(tag)
    with _hold_store(path):
        if not _is_intact(path) or (settings.signer is not None and not (path / BENTO_SIGNATURE).exists()):
            shutil.rmtree(path, ignore_errors=True)
            _build(build_dir, path, workspace)
            write_seal(path)
            verify_seal(path)
            if settings.signer is not None:
                sign_bento(path, params.sign, workspace)
    return Packaged(tag, path, candidate)


def fetch(params: Params, workspace: Path, version: str) -> Packaged:
    """Copy a version's Bento from the registry into BentoML's store, byte for byte the one that was packaged.

    Nothing is registered or promoted. A Bento that is intact in the store already stays as it is.

    Args:
        params: the whole of params.yaml.
        workspace: the workspace.
        version: number or alias.

    Raises:
        RegistryError: there is no such version, or its Bento is not with the registry.
        ChecksumError: the registry's bytes are not those that were registered.
    """
    from potstill.registry.promotion import Registry

    registry = Registry(workspace, params.project.name)
    registered = registry.get(version)
    tag = registry.bento_of(registered)
    path = bento_path(tag)
    if not _is_intact(path):
        with _hold_store(path):
            if not _is_intact(path):
                registry.fetch_bento(registered, path)
                verify_seal(path)
    return Packaged(tag, path, registered.candidate)


def included_files(workspace: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """Yield each pattern of bentofile.yaml with the files that match it now: path in the Bento -> file.

    Code comes from where Potstill is installed, so a workspace need not hold it. Files that packaging writes itself are
    left out.

    Raises:
        PackageError: bentofile.yaml is missing or cannot be read.
    """
    bentofile = workspace / BENTOFILE
    try:
        patterns = [str(pattern).lstrip("/") for pattern in yaml.safe_load(bentofile.read_bytes())["include"]]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise PackageError(f"{bentofile} is missing or has no `include` list; take it from `potstill init`") from error
    # The list of an older workspace lacks modules that the service has come to import.
    patterns += [f"potstill/{path.as_posix()}" for path in closure(SERVICE)]
    for pattern in dict.fromkeys(patterns):
        if pattern in (SETTINGS, str(PARAMS)):  # a Bento has the settings in place of params.yaml
            continue
        root = ROOT if pattern.startswith("potstill/") else workspace
        files = [path for path in sorted(root.glob(pattern)) if path.is_file()]
        yield pattern, {path.relative_to(root).as_posix(): path for path in files}


def _copy_files(workspace: Path, folder: Path) -> None:
    """Copy the files that bentofile.yaml names."""
    for pattern, files in included_files(workspace):
        if not files:
            root = ROOT if pattern.startswith("potstill/") else workspace
            raise PackageError(f"{BENTOFILE} includes {pattern!r}, but there is no such file in {root}")
        for name, path in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    shutil.copyfile(workspace / BENTOFILE, folder / BENTOFILE)


def _version(build_dir: Path, settings: Settings) -> str:
    """Hash the content without the commit to 12 hex digits, so that another commit alone makes no new Bento."""
    limits = settings.model_dump(mode="json", exclude={"git_commit"})
    return sha256_value({"files": file_sums(build_dir), "settings": limits})[:12]


def _is_intact(bento: Path) -> bool:
    """Whether the Bento is in the store and agrees with its seal; one whose build was killed has none."""
    if not bento.exists():
        return False
    try:
        verify_seal(bento)
    except ChecksumError:
        say(f"package: {bento} is incomplete or altered and is made anew")
        return False
    return True


def _build(build_dir: Path, bento: Path, workspace: Path) -> None:
    log = workspace / LOGS / "package.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    # With -f, since BentoML searches no folder below a hidden one for a bentofile.
    command = [sys.executable, "-m", "bentoml", "build", "-f", BENTOFILE, "--version", bento.name, "."]
    # The temporary folder of a build that is killed is removed by the next run.
    with (
        disk_errors(bento, total_bytes(build_dir)),
        _only_whole(bento),
        log.open("wb") as output,
        scratch_folder(workspace) as scratch,
    ):
        variables = {**bento_environment(), "TMPDIR": str(scratch.resolve())}
        status = run(command, cwd=build_dir, environment=variables, stdout=output, stderr=output)
        if status != 0:
            lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
            last = next((line for line in reversed(lines) if line), f"exit status {status}")
            raise PackageError(f"`bentoml build` failed: {last} (the whole output is in {log})")


def _hold_store(bento: Path) -> AbstractContextManager[None]:
    """Look at, build or fetch a Bento alone of its name: another run may be building the same one."""
    name, home = bento.parent.name, bento.parents[2]
    return hold(home / "tmp" / f"{name}.lock", what=f"a build of {name}", wait_seconds=WAIT_SECONDS)


@contextmanager
def _only_whole(bento: Path) -> Iterator[None]:
    """Remove what BentoML leaves of builds that fail or were killed."""
    try:
        yield
    finally:
        parts = f"bentoml_bento_{bento.parent.name}????????"  # as tempfile names it
        for folder in (bento.parents[2] / "tmp").glob(parts):
            shutil.rmtree(folder)


def main() -> None:
    """`python -m tasks.package`: package the candidate of the current folder's workspace, and print its tag."""
    environment.prepare()
    try:
        say(package(load_params(PARAMS), Path.cwd()).tag)
    except PotstillError as error:
        print(f"package: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
