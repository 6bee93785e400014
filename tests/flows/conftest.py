"""A toy workspace under the real contract, one Prefect server for the session, and the command line as a process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from flows.commands.params_changes import change_params
from potstill import environment
from potstill.compute.processes import free_port, start, stop
from tests.checkout import git
from tests.receivers import Webhook, webhook
from tests.registries import new_store

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = Path(__file__).resolve().parent / "toy"


def copy_toy(folder: Path) -> None:
    """The toy stages, with the files that they read; graph.yaml becomes dvc.yaml."""
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "graph.yaml").rename(folder / "dvc.yaml")
    for name in ("params.yaml", "bentofile.yaml"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    (folder / "data").mkdir()


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Toy:
    """A toy workspace and the environment its commands run in."""

    folder: Path
    variables: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start `potstill ...` as a process that takes signals as one at a terminal does."""
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments], cwd=self.folder, env={**self.variables, **more},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what a failed test has left running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            with process:
                pass

    def run(self, *arguments: str, **more: str) -> Ended:
        """Run `potstill ...` to its end."""
        process = self.start(*arguments, **more)
        return ended(process)

    def processes(self) -> list[str]:
        """What still runs in this workspace, or was started from it."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            try:
                inside = process.cwd() == str(self.folder) or str(self.folder) in " ".join(
                    process.info["cmdline"] or []
                )
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.info["cmdline"] or []))
            except psutil.Error:
                continue
        return found

    def nothing_runs(self, seconds: float = 30) -> bool:
        """Whether all processes end within that time."""
        return until(lambda: not self.processes(), seconds)


def ended(process: subprocess.Popen[str], seconds: float = 600) -> Ended:
    """Wait for a process and take what it printed."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s; it printed:\n{out}\n{err}") from None
    return Ended(process.returncode, out, err)


def until(condition: Callable[[], object], seconds: float = 300, pause_seconds: float = 0.1) -> bool:
    """Whether the condition comes true within that time; it is looked at again after each pause."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(pause_seconds)
    return False


def answers(url: str) -> bool:
    """Whether a server answers there with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def serving(
    arguments: Sequence[str], health: str, log: Path, variables: Mapping[str, str], folder: Path | None = None
) -> Iterator[None]:
    """Run a server of Python, `python ...`, from when it answers at a URL; its output goes to a file."""
    with log.open("wb") as output:
        server = start([sys.executable, *arguments], cwd=folder, environment=variables, stdout=output, stderr=output)
        try:
            assert until(lambda: answers(health) or server.poll() is not None), log.read_text()
            assert server.poll() is None, log.read_text()
            yield
        finally:
            stop(server)


@pytest.fixture
def receiver() -> Iterator[Webhook]:
    """A web server that keeps what is posted to it."""
    with webhook() as received:
        yield received


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> dict[str, str]:
    """Environment of all commands: stores of their own, this code, no server yet."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "POTSTILL"))
    }
    environment.prepare(kept)
    stores = {"BENTOML_HOME": str(tmp_path_factory.mktemp("bentoml")), "PREFECT_HOME": str(prefect_home)}
    return {**kept, **stores, "PYTHONPATH": str(REPOSITORY), "DVC_SITE_CACHE_DIR": str(tmp_path_factory.mktemp("dvc"))}


@pytest.fixture(scope="session")
def prefect_server(slow: None, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server with its schedules; yields the address of its API."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    arguments = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with serving(arguments, f"{address}/health", tmp_path_factory.mktemp("server") / "log.txt", variables):
        yield address


@pytest.fixture(scope="session")
def template(slow: None, tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]) -> Path:
    """A toy workspace with git, DVC and an empty MLflow store."""
    folder = tmp_path_factory.mktemp("template") / "toy"
    copy_toy(folder)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, env=variables, check=True)
    return new_store(folder)


def share(workspace: Path, base: Path, variables: Mapping[str, str], settings: list[str]) -> None:
    """Give a workspace a bare git repository, `origin`, and a DVC remote, `store`, in a folder, and push it."""
    change_params(workspace / "params.yaml", None, settings)
    dvc = [sys.executable, "-m", "dvc", "remote", "add", "--quiet", "--default", "store", str(base / "store")]
    subprocess.run(dvc, cwd=workspace, env=variables, check=True)
    (workspace / ".gitignore").write_text("/.work\n/mlflow.db*\n/mlartifacts\n/data\n/code.yaml\n__pycache__\n")
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "start")
    git(base, "init", "-q", "--bare", "origin")
    git(workspace, "remote", "add", "origin", str(base / "origin"))
    git(workspace, "push", "-q", "origin", "HEAD:main")


@pytest.fixture
def offline_toy(template: Path, variables: dict[str, str], tmp_path: Path) -> Iterator[Toy]:
    """A toy workspace whose runs start a Prefect API of their own."""
    folder = tmp_path / "toy"
    shutil.copytree(template, folder)
    toy = Toy(folder, variables)
    yield toy
    toy.close()


@pytest.fixture
def toy(offline_toy: Toy, prefect_server: str) -> Toy:
    """A toy workspace whose runs use the session's Prefect server."""
    return Toy(offline_toy.folder, {**offline_toy.variables, "PREFECT_API_URL": prefect_server}, offline_toy.started)
