"""Commands of git and DVC that talk to the remotes of a workspace."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from potstill.errors import PublishError, redacted

ORIGIN = "origin"


@dataclass(frozen=True)
class Remotes:
    """The remotes of git and DVC that a workspace is configured with.

    Attributes:
        workspace: folder of dvc.yaml.
        key: key of params.yaml that needs them, as messages name it.
    """

    workspace: Path
    key: str

    def check(self) -> None:
        """Check, before any work, that there are remotes.

        Raises:
            PublishError: the workspace is in no git repository with a commit, has no remote of git, or none of DVC.
        """
        self.git("rev-parse", "--verify", "HEAD", advice="commit the workspace")
        self.git("remote", "get-url", ORIGIN, advice=f"add it: git remote add {ORIGIN} URL")
        advice = "add it: dvc remote add --default NAME URL"
        if not self.dvc("config", "core.remote", advice=advice):  # it exits with 0 where there is none
            raise PublishError(f"{self.key}: DVC has no default remote in {self.workspace}; {advice}")

    def git(self, *arguments: str, advice: str) -> str:
        """Return what a command of git prints.

        Raises:
            PublishError: it fails.
        """
        return self._output(["git", *arguments], advice)

    def dvc(self, *arguments: str, advice: str) -> str:
        """Return what a command of DVC prints.

        Raises:
            PublishError: it fails.
        """
        return self._output([sys.executable, "-m", "dvc", *arguments], advice)

    def _output(self, command: list[str], advice: str) -> str:
        variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # it would wait for a password
        try:
            done = subprocess.run(
                command, cwd=self.workspace, env=variables, capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise PublishError(f"{self.key} needs {command[0]}, which this machine lacks; install it") from error
        if done.returncode:
            words = " ".join(word for word in command if not word.startswith(("-", sys.prefix)))
            lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
            message = next(
                (line for line in lines if line.startswith("ERROR: ")), lines[-1]
            )  # DVC ends with where to ask
            sentence = f"{self.key}: `{words}` failed in {self.workspace} ({message}); {advice}"
            raise PublishError(redacted(sentence))
        return done.stdout.strip()
