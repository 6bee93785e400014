"""Downloads Python packages with pip, as the user has configured it. They are never installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from potstill.artifacts import sha256_file
from potstill.compute import processes
from potstill.config.ingest_params import PackageSource
from potstill.errors import ChecksumError, FetchError, ToolError

_LOG = "pip.log"
# Words in pip's log after which another way of building cannot help: there is nothing to fetch.
_FINAL = ("No matching distribution", "Could not find a version", "DO NOT MATCH THE HASHES", "Network is unreachable")


@contextmanager
def download_packages(sources: Mapping[str, PackageSource], folder: Path) -> Iterator[dict[str, Path]]:
    """Download packages in parallel and yield the file of each. Children that still run at the end are stopped.

    pip compares the sum before it opens a file. For a source distribution it then asks the package's build backend for
    metadata. It first does so in this environment (`--no-build-isolation`), which saves about 15 s, and in an isolated
    one if this environment lacks the backend.

    Args:
        sources: name -> package.
        folder: an empty folder for the downloads.

    Raises:
        ToolError: this environment has no pip.
        FetchError: pip does not get the package.
        ChecksumError: the file is not the one that params name.
    """
    if sources and importlib.util.find_spec("pip") is None:
        raise ToolError(
            "this Python environment has no pip, which fetches the packages that ingest names; "
            f"add it with `{sys.executable} -m ensurepip` or `uv pip install pip`"
        )
    with ExitStack() as children:
        running = {name: _start(source, folder / name, children) for name, source in sources.items()}
        yield {name: _finish(source, folder / name, running[name], children) for name, source in sources.items()}


def _start(
    source: PackageSource, folder: Path, children: ExitStack, *, isolated: bool = False
) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    only = "--no-binary" if source.distribution == "sdist" else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", only, ":all:"]
    command += [] if isolated else ["--no-build-isolation"]
    command += ["--dest", str(folder / "files"), "--requirement", str(requirement)]
    with (folder / _LOG).open("wb") as log:
        process = processes.start(command, stdout=log, stderr=log)
    children.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        processes.stop(process)


def _finish(source: PackageSource, folder: Path, process: subprocess.Popen[bytes], children: ExitStack) -> Path:
    status = process.wait()
    if status and source.distribution == "sdist" and not any(words in _log_text(folder) for words in _FINAL):
        status = _start(source, folder, children, isolated=True).wait()
    if status:
        raise _failure(source, _log_text(folder))
    files = sorted((folder / "files").iterdir())
    if len(files) != 1 or sha256_file(files[0]) != source.sha256:
        names = ", ".join(path.name for path in files) or "nothing"
        raise ChecksumError(
            f"pip fetched {names} for {source.requirement}, which is not the file of sha256 {source.sha256}"
        )
    return files[0]


def _log_text(folder: Path) -> str:
    return (folder / _LOG).read_text(encoding="utf-8", errors="replace")


def _failure(source: PackageSource, log: str) -> FetchError | ChecksumError:
    if "DO NOT MATCH THE HASHES" in log:
        got = [line.split()[-1] for line in log.splitlines() if line.strip().startswith("Got")]
        return ChecksumError(
            f"the {source.distribution} of {source.requirement} has sha256 {got[0] if got else '(another)'} "
            f"where params.yaml names {source.sha256}; the index serves another file: check both"
        )
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    reason = " ".join((errors[-1] if errors else log.strip()[-300:]).split())
    return FetchError(
        f"pip could not fetch the {source.distribution} of {source.requirement} ({reason[:300]}); "
        "check the requirement, the network and your pip configuration (`pip config list`)"
    )
