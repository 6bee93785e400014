"""Fetches the files of a hub repository at a pinned commit, in a child process.

Potstill and its children run with the hub's client offline (`potstill.environment`). The client reads this setting only
when it is imported. So each source that params name gets a process whose environment lacks the setting.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from potstill.artifacts import sha256_file
from potstill.causes import causes, full_disk
from potstill.compute import processes
from potstill.config.ingest_params import HubSource
from potstill.errors import DiskFullError, FetchError
from potstill.pretrained.files import UNSAFE_SUFFIXES, opened_files

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# Which files to fetch: a data set, a model, or what describes a model (instead of its weights only their headers).
Selection = Literal["data", "model", "headers"]
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_WEIGHTS = "model.safetensors"
_MODEL_SUFFIXES = {".json", ".txt", ".model", ".safetensors"}


def fetch(name: str, source: HubSource, folder: Path, selection: Selection) -> None:
    """Fetch the files of a repository that are used, and check their sizes and sums against the hub's.

    Args:
        name: of the source in params, for messages.
        source: the repository.
        folder: the target folder. Its content is incomplete after a failure.
        selection: `headers` fetches configuration and tokenizer, and writes sparse weights files with their headers.

    Raises:
        FetchError: the hub cannot be reached, refuses access, has no such repository, commit or files, or the
            download broke off.
        DiskFullError: no space is left.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _OFFLINE}
    if not sys.stderr.isatty():
        environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    code = str(Path(__file__).resolve().parents[3])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [code, environment.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="potstill-") as scratch:
        answer = Path(scratch) / "answer.json"
        request = {"name": name, "source": source.model_dump(mode="json"), "folder": str(folder.resolve())}
        request |= {"selection": selection, "answer": str(answer)}
        command = [sys.executable, "-m", "potstill.data.fetching.hub", json.dumps(request)]
        status = processes.run(command, environment=environment)
        failure = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {"status": status}
    if "message" in failure:
        raise (DiskFullError if failure["full"] else FetchError)(failure["message"])
    if status != 0:
        raise FetchError(f"fetching {source.id} of ingest.{name} was ended (status {status}); run again")


def select_files(names: Iterable[str], selection: Selection, subset: str | None) -> list[str]:
    """Select the files of a repository that are used. Hidden files never are.

    A model needs its configuration, its tokenizer and its weights in one form. Pictures, documentation, pickles and
    other forms of the weights are left out. A data set needs all files, or all below `subset`.
    """
    visible = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if selection == "data":
        return [name for name in visible if subset is None or name.startswith(f"{subset}/")]
    visible = [name for name in opened_files(visible) if subset is None or name.startswith(f"{subset}/")]
    used = [name for name in visible if PurePosixPath(name).suffix in _MODEL_SUFFIXES - UNSAFE_SUFFIXES]
    if _WEIGHTS in used:
        used = [name for name in used if name == _WEIGHTS or not name.endswith(".safetensors")]
    return used


# --- in the process that is online ------------------------------------------------------------------------------------


def _download(source: HubSource, folder: Path, selection: Selection) -> None:
    from huggingface_hub import HfApi, snapshot_download

    kind = "dataset" if selection == "data" else "model"
    info = HfApi().dataset_info if selection == "data" else HfApi().model_info
    siblings = info(source.id, revision=source.revision, files_metadata=True).siblings or []
    files = {sibling.rfilename: sibling for sibling in siblings}
    used = select_files(files, selection, source.subset)
    if not used:
        subset = f" under {source.subset}/" if source.subset else ""
        raise FetchError(f"{source.id} at {source.revision} has no files{subset}")
    whole = [name for name in used if selection != "headers" or not name.endswith(".safetensors")]
    if whole:
        patterns = [glob.escape(name) for name in whole]
        snapshot_download(
            source.id, repo_type=kind, revision=source.revision, local_dir=folder, allow_patterns=patterns
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's own bookkeeping
    for name in whole:
        _check(source, folder / name, files[name])
    if len(whole) < len(used):
        _write_headers(source, folder)


def _check(source: HubSource, path: Path, expected: RepoSibling) -> None:
    """Refuse a file that differs from the hub's size or sum. The client compares sizes at best.

    Raises:
        FetchError: it differs.
    """
    if not path.is_file():
        raise FetchError(f"{expected.rfilename} of {source.id} did not arrive")
    if expected.size is not None and path.stat().st_size != expected.size:
        raise FetchError(
            f"{expected.rfilename} of {source.id} arrived with {path.stat().st_size} of {expected.size} bytes"
        )
    if expected.lfs is not None and sha256_file(path) != expected.lfs.sha256:
        raise FetchError(f"{expected.rfilename} of {source.id} arrived with another sum than the hub names")


def _write_headers(source: HubSource, folder: Path) -> None:
    """Write weights files that hold only their headers, followed by a hole of the right size."""
    from huggingface_hub import HfApi

    metadata = HfApi().get_safetensors_metadata(source.id, revision=source.revision)
    for name, file in metadata.files_metadata.items():
        tensors: dict[str, Any] = {
            key: {"dtype": value.dtype, "shape": value.shape, "data_offsets": value.data_offsets}
            for key, value in file.tensors.items()
        }
        header = json.dumps({"__metadata__": file.metadata, **tensors}).encode()
        size = max((value.data_offsets[1] for value in file.tensors.values()), default=0)
        with (folder / name).open("wb") as handle:
            handle.write(struct.pack("<Q", len(header)) + header)
            handle.truncate(8 + len(header) + size)


def _sentence(name: str, source: HubSource, error: Exception) -> str:
    """Say what happened and what to do."""
    from huggingface_hub import errors

    what = f"{source.id} at revision {source.revision}"
    key = f"ingest.{name}"
    status = next(
        (cause.response.status_code for cause in causes(error) if isinstance(cause, errors.HfHubHTTPError)), None
    )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has {source.id}, but no commit {source.revision} of it; correct {key}.revision"
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return (
            f"the hub does not let you have {what}: ask for access on its page, then set HF_TOKEN to a token of yours"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"the hub gave no {what}: there is no such repository, or it is private and HF_TOKEN is not the token of "
            f"someone who may read it; check {key}"
        )
    if isinstance(error, FetchError):
        return f"{error}; check {key}, or run again"
    reason = f"it answers with status {status}" if status is not None else " ".join(str(error).split())[:200]
    if "onsistency check failed" in reason or "eer closed connection" in reason:
        return f"the download of {what} broke off ({reason}); run again, nothing of it was kept"
    return f"the hub gave no {what} ({reason}); check the network and {key}, then run again"


def main() -> None:
    """Answer one request of `fetch`."""
    request = json.loads(sys.argv[1])
    processes.die_with_parent()
    source = HubSource.model_validate(request["source"])
    try:
        _download(source, Path(request["folder"]), request["selection"])
    except Exception as error:
        disk = full_disk(error, request["folder"])
        message = str(disk) if disk is not None else _sentence(request["name"], source, error)
        Path(request["answer"]).write_text(json.dumps({"full": disk is not None, "message": message}), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
