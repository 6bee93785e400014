from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from potstill.errors import StoreError
from potstill.paths import ARTIFACTS
from potstill.registry import tracking
from potstill.registry.artifact_locations import local_folder, moved_from, relocate
from potstill.registry.promotion import Registry
from potstill.registry.store_reader import reader
from tests.registries import PROJECT, add_version


def test_a_moved_workspace_approves_and_relocates_all_names(registry: Registry, tmp_path: Path) -> None:
    version = add_version(registry, "one")
    running = tracking.start_parent(registry.workspace, PROJECT, {}, [])
    assert relocate(registry.workspace) == []
    moved = registry.workspace.rename(tmp_path / "has moved")
    assert moved_from(moved) == [registry.workspace]

    elsewhere = Registry(moved, PROJECT, reader(moved))
    elsewhere.verify(elsewhere.get("1"))
    assert Registry(moved, PROJECT).approve("1").version == "1"

    assert relocate(moved) == [registry.workspace]
    assert relocate(moved) == []
    store = tracking.client(moved)
    assert {item.path for item in store.list_artifacts(version.run_id)} == set()
    named = [item.artifact_location for item in store.search_experiments() if item.name == PROJECT]
    named += [store.get_model_version(PROJECT, "1").source, store.get_run(version.run_id).info.artifact_uri]
    assert all(name.startswith(f"{moved.as_uri()}/{ARTIFACTS}/") for name in named)
    tracking.end_parent(moved, running, "FINISHED", metrics={}, tags={}, artifacts=[Path(__file__)])
    assert {item.path for item in store.list_artifacts(running)} == {Path(__file__).name}
    assert not registry.workspace.exists()


def test_a_copy_reads_and_names_its_own_artifacts(registry: Registry, tmp_path: Path) -> None:
    version = add_version(registry, "one")
    copy = tmp_path / "copy"
    shutil.copytree(registry.workspace, copy)
    here = local_folder(version.source, copy)
    assert here is not None
    assert here.is_relative_to(copy)
    assert relocate(copy) == [registry.workspace]
    assert local_folder(version.source, registry.workspace) == Path(version.source.removeprefix("file://"))
    assert relocate(registry.workspace) == []


def test_a_second_clone_that_uses_a_store_is_no_move(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri(registry.workspace))
    second = tmp_path / "second"
    second.mkdir()
    add_version(Registry(second, PROJECT), "one")
    assert moved_from(second) == moved_from(registry.workspace) == []


def test_another_store_has_no_local_folder(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_folder("s3://bucket/mlartifacts/p/models/m-1/artifacts", workspace) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert moved_from(workspace) == relocate(workspace) == []
    assert local_folder("file:///a/mlartifacts/p/models/m-1/artifacts", workspace) == Path(
        "/a/mlartifacts/p/models/m-1/artifacts"
    )


def test_a_store_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, and long enough to be read as a page", encoding="utf-8")
    with pytest.raises(StoreError, match=r"mlflow\.db cannot be read"):
        relocate(tmp_path)


# Changes every page of a store, more of them than SQLite holds in memory, and is killed before it is done.
KILLED = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("pragma cache_size = 2")
database.execute("create table filler as with recursive n(i) as (select 1 union select i + 1 from n where i < 999) "
                 "select zeroblob(4000) as page from n")
database.execute("begin immediate")
database.execute("update filler set page = zeroblob(3999)")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_was_writing_is_undone(workspace: Path) -> None:
    store = workspace / "mlflow.db"
    subprocess.run([sys.executable, "-c", KILLED, str(store)], check=False)
    assert (workspace / "mlflow.db-journal").exists()
    assert relocate(workspace) == []
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("select distinct length(page) from filler").fetchall() == [(4000,)]
