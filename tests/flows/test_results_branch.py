"""Runs in clones of a workspace: each pushes its data and its dvc.lock, and another clone goes on from there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows.engine.remotes import Remotes
from flows.engine.results_branch import KEY, commit_results, push_results
from potstill.errors import PublishError
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from tests.checkout import git, start_repository
from tests.flows.conftest import Toy, share

pytestmark = pytest.mark.slow


@pytest.fixture
def shared(offline_toy: Toy, tmp_path: Path) -> Toy:
    """A toy workspace with a remote of git and one of DVC, both of which are folders."""
    folder = offline_toy.folder
    share(folder, tmp_path, offline_toy.variables, ["schedule.results_branch=results/nightly"])
    return Toy(folder, {**offline_toy.variables, "MLFLOW_TRACKING_URI": tracking.tracking_uri(folder)})


def clone(toy: Toy, name: str, branch: str) -> Toy:
    folder = toy.folder.parent / name
    git(toy.folder.parent, "clone", "-q", "--branch", branch, "origin", name)
    (folder / "data").mkdir(exist_ok=True)
    return Toy(folder, toy.variables)


def branches(toy: Toy) -> list[str]:
    listed = git(toy.folder.parent / "origin", "for-each-ref", "--format=%(refname:short)")
    return [name for name in listed.split() if name != "main"]


def test_a_run_in_a_clone_leaves_its_results_and_another_clone_goes_on(shared: Toy) -> None:
    first = clone(shared, "first", "main")
    ended = first.run("run")
    assert ended.code == 0, ended.err
    (branch,) = branches(shared)
    assert branch == f"results/nightly/{git(first.folder, 'rev-parse', 'HEAD')[:12]}"
    assert f"push: branch {branch} of origin has the run's dvc.lock, DVC's remote its data" in ended.out
    assert git(first.folder, "show", "--name-only", "--format=", "HEAD").split() == ["dvc.lock", "reports/metrics.json"]
    (version,) = Registry(shared.folder, "movie-reviews").versions()
    assert version.tags["potstill.git_dirty"] == "false"

    second = clone(shared, "second", branch)
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=second.folder, env=second.variables, check=True)
    again = second.run("run")
    assert again.code == 0, again.err
    assert "prepare: current\nexport: current\nevaluate: current\n" in again.out
    assert branches(shared) == [branch]
    assert len(Registry(shared.folder, "movie-reviews").versions()) == 1


def test_results_of_a_subfolder_of_the_repository_are_committed(tmp_path: Path) -> None:
    workspace = tmp_path / "my workspace"
    (workspace / "reports").mkdir(parents=True)
    (workspace / "dvc.lock").write_text("before")
    start_repository(tmp_path)
    (workspace / "dvc.lock").write_text("after")
    (workspace / "reports/metrics.json").write_text("{}")
    (workspace / "notes.txt").write_text("of nobody's concern")
    commit = commit_results(workspace)
    named = git(workspace, "show", "--name-only", "--format=", "--relative", commit).split()
    assert named == ["dvc.lock", "reports/metrics.json"]
    assert commit_results(workspace) == commit


def test_what_stands_in_the_way_is_one_sentence_before_any_work(shared: Toy, tmp_path: Path) -> None:
    refused = tmp_path / "origin" / "hooks" / "pre-receive"
    refused.write_text("#!/bin/sh\necho no pushes today >&2\nexit 1\n")
    refused.chmod(0o755)
    (shared.folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    with pytest.raises(PublishError, match=r"`git push .*` failed in .*; correct the remote .* nothing is computed"):
        push_results(shared.folder, "results")
    git(shared.folder, "remote", "remove", "origin")
    ended = shared.run("run")
    assert (ended.code, "git remote add origin URL" in ended.err) == (57, True)
    assert "prepare:" not in ended.out
    (shared.folder / "more.txt").write_text("more")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "more.txt"], cwd=shared.folder, check=True)
    remote = "['remote \"store\"']\nurl = /dev/null/store\n"  # below what is no folder
    (shared.folder / ".dvc/config").write_text(f"[core]\nremote = store\n{remote}")
    with pytest.raises(PublishError, match=r"`dvc push` failed in .* \(ERROR: .*\); correct the remote"):
        push_results(shared.folder, "results")
    (tmp_path / "bare").mkdir()
    with pytest.raises(PublishError, match=r"`git rev-parse .*commit the workspace"):
        Remotes(tmp_path / "bare", KEY).check()
    with pytest.raises(PublishError, match=r"`git ls-remote ftp://\*\*\*@127.0.0.1:1/x` failed"):
        Remotes(tmp_path, KEY).git("ls-remote", "ftp://user:secret@127.0.0.1:1/x", advice="name another")
