"""The finished run of a tiny workspace, shared by the tests that only look at it: the tutorial's first commands."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.pages import Shell, commands
from tests.e2e.workspaces import TINY, apply_settings, command

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"


@dataclass(frozen=True)
class Finished:
    """A workspace after `potstill run`: its folder, the tools' home, and what the run printed."""

    folder: Path
    home: Path
    printed: str

    def run(self, *words: str, expect: int | None = 0, seconds: float = 600) -> str:
        """A command in the workspace."""
        return command(*words, cwd=self.folder, home=self.home, expect=expect, seconds=seconds)


@pytest.fixture(scope="session")
def finished(slow: None, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_rows: Path) -> Finished:
    """200 generated rows and a tiny random model, from `potstill init` through every stage to a promoted Bento."""
    home = tmp_path_factory.mktemp("home")
    shutil.copyfile(tiny_rows, home / "reviews.csv")
    init, run = commands(TUTORIAL)[:2]
    with Shell(home, home) as shell:
        # A reader takes the default teacher and the proposed settings.
        shell.run(replace(init, code=f"{init.code.rstrip()} --teacher {tiny_base}"))
        apply_settings(home / "reviews", home, TINY)
        printed = shell.run(run)
    return Finished(home / "reviews", home, printed)
