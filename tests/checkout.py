"""This tree's files as a clone has them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY


def copy_checkout(folder: Path) -> Path:
    """Copy what git tracks, or would track, as it lies on the disk now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, with a name for commits, and return what it prints."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def start_repository(folder: Path) -> str:
    """Make a folder a git repository with all its files in a first commit, and return the commit."""
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        git(folder, *arguments)
    return git(folder, "rev-parse", "HEAD").strip()
