from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.engine.dvc_cache import remove_unused, unused_objects

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # in DVC's own trie
]

GRAPH = "stages:\n  copy:\n    cmd: mkdir -p out && cp given out/copy\n    deps: [given]\n    outs: [out]\n"


def call(folder: Path, *command: str) -> None:
    author = {
        "GIT_AUTHOR_NAME": "x",
        "GIT_AUTHOR_EMAIL": "x@x",
        "GIT_COMMITTER_NAME": "x",
        "GIT_COMMITTER_EMAIL": "x@x",
    }
    subprocess.run(command, cwd=folder, env={**os.environ, **author}, check=True, capture_output=True)


def cached(workspace: Path) -> set[Path]:
    return {path for path in (workspace / ".dvc/cache/files").rglob("*") if path.is_file()}


def test_what_no_lock_and_no_commit_names_goes(tmp_path: Path) -> None:
    workspace = tmp_path / "work #1, with spaces"  # signs with a meaning in DVC's config
    workspace.mkdir()
    call(workspace, "git", "init", "-q")
    call(workspace, sys.executable, "-m", "dvc", "init", "-q")
    (workspace / "dvc.yaml").write_text(GRAPH, encoding="utf-8")
    made: list[set[Path]] = []
    for content in ("committed", "kept", "unused", "present"):
        (workspace / "given").write_text(content, encoding="utf-8")
        before = cached(workspace)
        call(workspace, sys.executable, "-m", "dvc", "repro", "-q")
        made.append(cached(workspace) - before)
        shutil.copyfile(workspace / "dvc.lock", tmp_path / f"{content}.lock")
        if content == "committed":
            call(workspace, "git", "add", ".")
            call(workspace, "git", "commit", "-q", "-m", content)
    committed, kept, unused, present = made
    assert {len(objects) for objects in made} == {2}

    locks = [tmp_path / "kept.lock"]
    assert set(unused_objects(workspace, locks)) == unused
    assert set(unused_objects(workspace, [])) == unused | kept
    assert cached(workspace) == committed | kept | unused | present
    remove_unused(workspace, locks)
    assert cached(workspace) == committed | kept | present
    # A version whose data is gone already stops nothing.
    assert unused_objects(workspace, [*locks, tmp_path / "unused.lock"]) == []

    call(workspace, sys.executable, "-m", "dvc", "cache", "dir", "-q", str(tmp_path / "shared"))
    shutil.copytree(workspace / ".dvc/cache/files", tmp_path / "shared/files")
    assert unused_objects(workspace, []) == []
