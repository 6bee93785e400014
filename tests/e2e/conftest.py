"""The finished run of a tiny workspace, made once and shared by the tests that only look at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.workspaces import TINY, command, make_workspace


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
    folder = make_workspace(home / "reviews", tiny_rows, tiny_base, home, TINY)
    return Finished(folder, home, command("potstill", "run", cwd=folder, home=home))
