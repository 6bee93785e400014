"""The finished run of a tiny workspace, shared by the tests that only look at it: the tutorial's first commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from potstill.compute.processes import hold
from tests.conftest import CACHE, REPOSITORY
from tests.e2e.pages import Shell, commands
from tests.e2e.workspaces import TINY, apply_settings, command

OPENVINO = ("openvino==2026.4.1", "openvino-telemetry==2025.2.0")
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
def openvino_packages(slow: None) -> Path:
    """A folder with OpenVINO for PYTHONPATH. It is not in the lock, since few need it and it is 180 MB."""
    folder = CACHE / "-".join(OPENVINO).replace("==", "-")
    with hold(CACHE / "lock" / "openvino.lock", what="fetching OpenVINO for the tests", wait_seconds=300):
        if not (folder / "whole").exists():
            uv = str(Path(sys.executable).parent / "uv")
            command = [uv, "pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target", str(folder)]
            subprocess.run([*command, *OPENVINO], check=True)
            (folder / "whole").touch()
    return folder


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
