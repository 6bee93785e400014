"""A disk that is full: one sentence with the path, no part of a file, and success once there is room."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from flows.engine.pipeline_run import open_run
from potstill.artifacts import verify
from potstill.config.params_file import load_params
from potstill.errors import DiskFullError
from potstill.inference.window_store import FolderStore
from potstill.paths import ARTIFACTS, STORE
from potstill.registry.promotion import Registry
from potstill.serving.release import verify_seal
from potstill.training import checkpoints
from tasks.package import package
from tests.flows.conftest import Toy
from tests.potstill.serving.folders import write_workspace
from tests.registries import PROJECT, add_version, new_store

FILLER = ".filler"


@dataclass(frozen=True)
class SmallDisk:
    """A file system of a few megabytes."""

    folder: Path

    def fill(self, spare: int = 0) -> None:
        """Leave no more than `spare` bytes free."""
        filler = self.folder / FILLER
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        os.truncate(filler, max(filler.stat().st_size - spare, 0))

    def make_room(self) -> None:
        """Free what was filled."""
        (self.folder / FILLER).unlink()

    def files(self) -> list[str]:
        """Every file and folder on it but the filler."""
        paths = (path for path in self.folder.rglob("*") if path.name != FILLER)
        return sorted(str(path.relative_to(self.folder)) for path in paths)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 16 MB at `tmp_path/disk`; only root may mount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()}); run as root")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_full(raised: pytest.ExceptionInfo[DiskFullError], folder: Path, *, needed: bool = True) -> None:
    """The error is one sentence that names a path on the disk, what is free there and, where known, what is needed."""
    message = str(raised.value)
    assert str(folder) in message, message
    assert "\n" not in message
    assert re.search(r"[0-9] (bytes|[kM]B) are free on that disk", message), message
    assert bool(re.search(r"it takes at least [0-9.]+ (bytes|[kM]B)", message)) == needed, message


def save(folder: Path, step: int) -> None:
    weights = {"weight": torch.full((200, 200), float(step))}
    checkpoints.save(folder, step, {"model": weights}, {"step": step})


def test_checkpoints(disk: SmallDisk) -> None:
    folder = disk.folder / "checkpoints"
    save(folder, 1)
    disk.fill(spare=100_000)
    before = disk.files()
    with pytest.raises(DiskFullError) as raised:
        save(folder, 2)
    assert_full(raised, folder)
    assert disk.files() == before
    disk.make_room()
    save(folder, 2)
    loaded = checkpoints.newest(folder)
    assert loaded is not None
    assert loaded[1]["step"] == 2


def test_the_watch_folder(disk: SmallDisk) -> None:
    store = FolderStore(disk.folder / "watch")
    store.write("1.counts.json", "{}")
    disk.fill()
    before = disk.files()
    with pytest.raises(DiskFullError) as raised:
        store.write("2.counts.json", "x" * 10_000)
    assert_full(raised, disk.folder / "watch/2.counts.json")
    assert disk.files() == before
    disk.make_room()
    store.write("2.counts.json", "{}")
    assert store.names() == ["1.counts.json", "2.counts.json"]


@pytest.mark.slow
@pytest.mark.parametrize("spare", [0, 40_000], ids=["database", "artifacts"])
def test_the_store_of_mlflow(spare: int, disk: SmallDisk, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    workspace.mkdir()
    new_store(disk.folder)
    (disk.folder / ARTIFACTS).mkdir()
    for name in (STORE, ARTIFACTS):
        (workspace / name).symlink_to(disk.folder / name)
    registry = Registry(workspace, PROJECT)
    add_version(registry, "one")
    registry.promote("1", expected=None)
    disk.fill(spare)
    with pytest.raises(DiskFullError) as raised:
        add_version(registry, "two" * 80)  # a hundred times that as its model
    assert_full(raised, workspace, needed=spare > 0)
    assert [version.version for version in registry.versions()] == ["1"]
    disk.make_room()
    shutil.rmtree(workspace / "models")  # the helper's
    registry.reconcile()
    version = add_version(registry, "two")
    registry.promote(version.version, expected="1")
    assert [version.version for version in registry.versions()] == ["2", "1"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
@pytest.mark.parametrize("spare", [0, 4096])
def test_the_cache_of_dvc(spare: int, disk: SmallDisk, offline_toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in offline_toy.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(offline_toy.folder)
    (offline_toy.folder / ".dvc/cache").symlink_to(disk.folder)
    disk.fill(spare)
    with open_run(offline_toy.folder) as run:
        with pytest.raises(DiskFullError) as raised:
            run.stage("prepare")
        assert_full(raised, offline_toy.folder / ".dvc", needed=spare > 0)
        assert not list(disk.folder.glob("files/*/*/*.tmp"))
        disk.make_room()
        run.stage("prepare")
    assert verify(Path("data/prepared")) == {}


@pytest.mark.slow
def test_the_store_of_bentos(disk: SmallDisk, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = write_workspace(tiny_base, tmp_path / "w", ["good film", "bad film"])
    monkeypatch.setenv("BENTOML_HOME", str(disk.folder))
    params = load_params(workspace / "params.yaml")
    disk.fill(spare=100_000)
    with pytest.raises(DiskFullError) as raised:
        package(params, workspace)
    assert_full(raised, disk.folder)
    assert [path for path in disk.files() if path.startswith(("bentos/", "tmp/"))] == [
        "tmp/potstill-movie-reviews.lock"
    ]
    disk.make_room()
    verify_seal(package(params, workspace).path)
