"""The branch to which a run pushes its dvc.lock and metrics, after its data went to DVC's remote.

A run that works in a clone of its own leaves its results this way. Each run has a branch of its own, so that two runs
never write the same one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from potstill.errors import PublishError, redacted
from potstill.paths import DVC_LOCK, METRICS
from potstill.progress import say

REMOTE = "origin"
# The author of the commits, since git knows no name on some machines.
_AUTHOR = ["-c", "user.name=Potstill", "-c", "user.email=potstill@localhost"]


def check_remotes(workspace: Path) -> None:
    """Check, before any work, that a run has remotes to push its results to.

    Raises:
        PublishError: the workspace is in no git repository with a commit, has no remote of git, or none of DVC.
    """
    _git(workspace, "rev-parse", "--verify", "HEAD", advice="commit the workspace")
    _git(workspace, "remote", "get-url", REMOTE, advice=f"add it: git remote add {REMOTE} URL")
    _dvc(workspace, "config", "core.remote", advice="add it: dvc remote add --default NAME URL")


def commit_results(workspace: Path) -> str:
    """Commit dvc.lock, and the metrics unless git ignores them, if they have changed; nothing else.

    Returns:
        The commit that has them.

    Raises:
        PublishError: git refuses.
    """
    advice = "make the commit possible, and run again"
    results = ["--", str(DVC_LOCK), str(METRICS)]
    changes = _git(workspace, "status", "--porcelain", "--untracked-files=all", *results, advice=advice)
    if changes:
        changed = ["--", *(line.split(maxsplit=1)[1] for line in changes.splitlines())]
        _git(workspace, "add", *changed, advice=advice)
        _git(
            workspace, *_AUTHOR, "commit", "--quiet", "--message", "Results of a run", "--only", *changed, advice=advice
        )
    return _git(workspace, "rev-parse", "HEAD", advice=advice)


def push_results(workspace: Path, prefix: str) -> str:
    """Push data to DVC's remote, and then the commit to a branch of its own.

    Args:
        workspace: the workspace, whose stages are done.
        prefix: first part of the branch's name; the second is the commit's.

    Returns:
        The branch.

    Raises:
        PublishError: a remote refuses; what DVC's remote has by then stays there, and is not sent again.
    """
    commit = commit_results(workspace)
    branch = f"{prefix}/{commit[:12]}"
    advice = "correct the remote or its credentials, and run again: nothing is computed twice"
    _dvc(workspace, "push", advice=advice)  # with --quiet DVC does not say what failed
    _git(workspace, "push", "--quiet", REMOTE, f"HEAD:refs/heads/{branch}", advice=advice)
    say(f"push: branch {branch} of {REMOTE} has the run's dvc.lock, DVC's remote its data")
    return branch


def _git(workspace: Path, *arguments: str, advice: str) -> str:
    return _output(workspace, ["git", *arguments], advice)


def _dvc(workspace: Path, *arguments: str, advice: str) -> str:
    return _output(workspace, [sys.executable, "-m", "dvc", *arguments], advice)


def _output(workspace: Path, command: list[str], advice: str) -> str:
    """Return what a command prints.

    Raises:
        PublishError: it fails.
    """
    variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # it would wait for a password
    try:
        done = subprocess.run(command, cwd=workspace, env=variables, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PublishError(
            f"schedule.results_branch needs {command[0]}, which this machine lacks; install it"
        ) from error
    if done.returncode:
        words = " ".join(word for word in command if not word.startswith(("-", sys.prefix)))
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        said = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])  # DVC ends with where to ask
        raise PublishError(f"schedule.results_branch: `{words}` failed in {workspace} ({redacted(said)}); {advice}")
    return done.stdout.strip()
