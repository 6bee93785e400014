"""The branch to which a run pushes its dvc.lock and metrics, after its data went to DVC's remote.

A run that works in a clone of its own leaves its results this way. Each run has a branch of its own, so that two runs
never write the same one.
"""

from __future__ import annotations

from pathlib import Path

from flows.engine.remotes import ORIGIN, Remotes
from potstill.paths import DVC_LOCK, METRICS
from potstill.progress import say

KEY = "schedule.results_branch"
# The author of the commits, since git knows no name on some machines.
_AUTHOR = ["-c", "user.name=Potstill", "-c", "user.email=potstill@localhost"]


def commit_results(workspace: Path) -> str:
    """Commit dvc.lock, and the metrics unless git ignores them, if they have changed; nothing else.

    Returns:
        The commit that has them.

    Raises:
        PublishError: git refuses.
    """
    git = Remotes(workspace, KEY).git
    advice = "make the commit possible, and run again"
    results = ["--", str(DVC_LOCK), str(METRICS)]
    # Both name files as they are from the workspace, also where that is a subfolder of the repository.
    edited = git("diff", "--name-only", "--relative", "HEAD", *results, advice=advice).splitlines()
    added = git("ls-files", "--others", "--exclude-standard", *results, advice=advice).splitlines()
    if edited or added:
        changed = ["--", *edited, *added]
        git("add", *changed, advice=advice)
        git(*_AUTHOR, "commit", "--quiet", "--message", "Results of a run", "--only", *changed, advice=advice)
    return git("rev-parse", "HEAD", advice=advice)


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
    remotes = Remotes(workspace, KEY)
    commit = commit_results(workspace)
    branch = f"{prefix}/{commit[:12]}"
    advice = "correct the remote or its credentials, and run again: nothing is computed twice"
    remotes.dvc("push", advice=advice)  # with --quiet DVC does not say what failed
    remotes.git("push", "--quiet", ORIGIN, f"HEAD:refs/heads/{branch}", advice=advice)
    say(f"push: branch {branch} of {ORIGIN} has the run's dvc.lock, DVC's remote its data")
    return branch
