"""CONTRIBUTING.md is true: its recipes are followed to the letter in a copy of this tree, and its map is whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.checkout import copy_checkout
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (Add a .*?)$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
# The words before a block say where it goes: "in `FILE` above `LINE`:", "in `FILE` instead of `TEXT`:" or
# "in the new file `FILE`:".
PLACE = r"in(?P<new> the new file)?\s+`(?P<file>[^`]+)`(?:\s+(?P<how>above|instead of)\s+`(?P<anchor>[^`]+)`)?:"
STEP = re.compile(rf"(?:{PLACE}\n\n)?```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def write_step(root: Path, step: re.Match[str]) -> None:
    """Put a block where the words before it say."""
    path, code = root / step["file"], step["code"]
    if step["new"]:
        assert not path.exists(), path
        path.write_text(code, encoding="utf-8")
        return
    text, anchor = path.read_text(encoding="utf-8"), step["anchor"]
    if step["how"] == "above":
        assert len(re.findall(rf"^{re.escape(anchor)}", text, re.MULTILINE)) == 1, f"{step['file']}: {anchor}"
        text = re.sub(rf"^(?={re.escape(anchor)})", lambda _: code, text, flags=re.MULTILINE)
    else:
        assert text.count(anchor) == 1, f"{step['file']}: {anchor}"
        text = text.replace(anchor, code.rstrip("\n"))
    path.write_text(text, encoding="utf-8")


def run_step(root: Path, script: str) -> None:
    """Run a block's commands in the copy, whose packages come before those of this tree."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euc", script], cwd=root, env=os.environ | {"PATH": path, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_does_what_it_says(name: str, tmp_path: Path) -> None:
    root = copy_checkout(tmp_path)
    steps = list(STEP.finditer(RECIPES[name]))
    assert len(steps) == RECIPES[name].count("```") / 2
    for step in steps:
        if step["kind"] == "sh":
            run_step(root, step["code"])
        else:
            assert step["file"], f"nothing says where this goes:\n{step['code']}"
            write_step(root, step)
    run_step(root, "ruff check . && ruff format --check .")


def test_the_map_names_every_room() -> None:
    rooms = {f"potstill/{path.parent.name}" for path in (REPOSITORY / "potstill").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(potstill/\w+)`", TEXT, re.MULTILINE)) == rooms


def test_hooks_fetch_nothing_and_check_what_make_check_does() -> None:
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    script = (REPOSITORY / "scripts" / "test.sh").read_text(encoding="utf-8")
    for hook in hooks:
        assert hook["entry"].removeprefix(".venv/bin/").split(" --")[0] in script
