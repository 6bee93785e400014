from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from flows.engine.dvc_graph import Graph, free_dead_locks, kept_lock_file, restore_lock_file
from potstill.artifacts import write_json
from potstill.config.params_file import load_params
from potstill.config.yaml_file import as_yaml, load_yaml
from potstill.errors import ParamsError, ToolError
from potstill.paths import KEPT_LOCK
from tests.conftest import REPOSITORY
from tests.flows.conftest import Toy

PARAMS = load_params(REPOSITORY / "params.yaml")


def hold(toy: Path, pid: int, path: str) -> Path:
    """What DVC writes while a process makes an out."""
    table = toy / ".dvc" / "tmp" / "rwlock"
    table.parent.mkdir(parents=True, exist_ok=True)
    holder = {"pid": pid, "cmd": "dvc repro"}
    write = {str(toy / path): holder}
    read = {str(toy / "params.yaml"): [holder]}
    table.write_text(json.dumps({"write": write, "read": read}), encoding="utf-8")
    return table


@pytest.mark.slow
def test_what_a_killed_process_held_is_free_though_nobody_has_asked_for_its_end(
    offline_toy: Toy, request: pytest.FixtureRequest
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    request.addfinalizer(dead.wait)
    while psutil.Process(dead.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    table = hold(offline_toy.folder, dead.pid, "data/prepared")
    free_dead_locks(offline_toy.folder)
    assert json.loads(table.read_text()) == {"write": {}, "read": {}}


def test_a_table_of_locks_that_dvc_was_writing_when_it_was_killed_is_removed(tmp_path: Path) -> None:
    table = hold(tmp_path, os.getpid(), "data/prepared")
    text = table.read_text()
    for end in (0, len(text) // 2, len(text) - 1):
        table.write_text(text[:end])
        free_dead_locks(tmp_path)
        assert not table.exists()


def lock_text(**sums: str) -> str:
    """A dvc.lock with an out of each stage."""
    stages = {name: {"cmd": "true", "outs": [{"path": name, "md5": md5}]} for name, md5 in sums.items()}
    return yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", lock_text(running="a" * 32)),
        (lock_text(done="d" * 32), lock_text(done="d" * 32, running="a" * 32)),
        (lock_text(running="b" * 32, done="d" * 32), lock_text(running="a" * 32, done="d" * 32)),
    ],
    ids=["first", "last", "again"],
)
def test_a_lock_file_that_dvc_was_writing_when_it_was_killed_is_one(tmp_path: Path, before: str, after: str) -> None:
    lock, done = tmp_path / "dvc.lock", lock_text(done="d" * 32).partition("stages:")[2]
    for end in range(len(after)):
        write_json(tmp_path / KEPT_LOCK, {"stage": "running", "text": before})  # as a run leaves it that is killed
        lock.write_text(after[:end])
        restore_lock_file(tmp_path)
        left = lock.read_text() if lock.exists() else ""
        assert not before or done.strip() in left, after[:end]
        assert left in ("", before) or after.startswith(left)
        assert not (tmp_path / KEPT_LOCK).exists()


def test_a_lock_file_that_is_whole_or_that_no_run_has_begun_stays(tmp_path: Path) -> None:
    with kept_lock_file(tmp_path, "done"):
        (tmp_path / "dvc.lock").write_text(lock_text(done="d" * 32))
    assert (tmp_path / "dvc.lock").read_text() == lock_text(done="d" * 32)
    (tmp_path / "dvc.lock").write_text("<<<<<<< a conflict of git")
    restore_lock_file(tmp_path)
    assert (tmp_path / "dvc.lock").read_text() == "<<<<<<< a conflict of git"


@pytest.mark.slow
def test_what_a_living_process_holds_stays_held(offline_toy: Toy) -> None:
    parent = psutil.Process(os.getpid()).ppid()
    table = hold(offline_toy.folder, parent, "data/prepared")
    before = json.loads(table.read_text())
    free_dead_locks(offline_toy.folder)
    assert json.loads(table.read_text()) == before
    busy = offline_toy.run("status")
    assert busy.code == 4
    assert "DVC is at work in this workspace" in busy.err
    assert f"(PID {parent})" in busy.err


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
def test_all_stages_are_compared_in_one_reading_of_dvcs_files(
    offline_toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.dvcfile import Lockfile
    from dvc.repo.index import Index

    parsed = {"dvc.lock": 0, "the whole repository": 0}

    def count(owner: type, name: str, what: str) -> None:
        original = getattr(owner, name)

        def counted(*args: object, **kwargs: object) -> object:
            parsed[what] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(Lockfile, "_load", "dvc.lock")
    count(Index, "from_repo", "the whole repository")
    (offline_toy.folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n", encoding="utf-8")
    graph = Graph(offline_toy.folder, PARAMS)
    assert graph.stale() == ["prepare", "export", "evaluate"]
    assert [graph.is_stale(name) for name in graph.order] == [True] * 3
    assert parsed == {"dvc.lock": 1, "the whole repository": 0}
    graph.forget()
    assert graph.is_stale("prepare")
    assert parsed == {"dvc.lock": 2, "the whole repository": 0}


def test_a_dvc_yaml_that_cannot_be_read_is_one_sentence(offline_toy: Toy) -> None:
    (offline_toy.folder / "dvc.yaml").write_text("stages: [", encoding="utf-8")
    with pytest.raises(ToolError, match=r"DVC cannot use .*dvc\.yaml"):
        Graph(offline_toy.folder, PARAMS)


def write_section(folder: Path, section: dict[str, object] | None) -> None:
    """Give `evaluate` another value, or take it away."""
    path = folder / "params.yaml"
    values = load_yaml(path.read_text(encoding="utf-8"))
    del values["evaluate"]
    path.write_text(as_yaml(values if section is None else values | {"evaluate": section}), encoding="utf-8")


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
def test_a_section_that_dvc_would_miss_is_named_before_any_stage_runs(offline_toy: Toy) -> None:
    write_section(offline_toy.folder, None)
    with pytest.raises(ParamsError, match=r"lacks evaluate, which dvc\.yaml names; add `evaluate: \{\}`"):
        Graph(offline_toy.folder, PARAMS)


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
def test_an_empty_section_is_enough(offline_toy: Toy) -> None:
    write_section(offline_toy.folder, {})
    assert "evaluate" in Graph(offline_toy.folder, PARAMS).stale()


def test_the_default_params_have_every_section_of_the_graph() -> None:
    stages = load_yaml((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    needed = {name for stage in stages for name in stage.get("params", []) if isinstance(name, str)}
    assert needed <= load_yaml((REPOSITORY / "params.yaml").read_text(encoding="utf-8")).keys()
