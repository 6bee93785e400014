"""A sixth task, added by the recipe of CONTRIBUTING.md: two files, and its name in three lists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from tests.checkout import copy_checkout
from tests.conftest import generate_rows
from tests.test_contributing import RECIPES, STEP, write_step


def test_the_registries_have_the_tasks_that_params_accept() -> None:
    from potstill.kinds.losses.task_losses import HEAD_LOSSES

    assert set(KINDS) == set(HEAD_LOSSES) == set(get_args(TaskKind))
    assert all(kind.name == name for name, kind in KINDS.items())


@pytest.mark.slow
def test_a_sixth_task_goes_from_params_to_the_service(tmp_path: Path, tiny_base: Path) -> None:
    copy = copy_checkout(tmp_path / "copy")
    for step in STEP.finditer(RECIPES["Add a task"]):
        if step["kind"] != "sh":
            write_step(copy, step)
    (tmp_path / "raw/s").mkdir(parents=True)
    rows = [{"a": text, "b": label, "y": int(at % 2)} for at, (text, label) in enumerate(generate_rows(90))]
    (tmp_path / "raw/s/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).with_name("sixth_task.py")), str(tmp_path), str(tiny_base)]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "prepared": "int64",
        "task": "next_sentence",
        "terms": ["nsp"],
        "blend": "0.5 * T^2 * KL(T=2) + 0.5 * NSP",
        "columns": ["", "accuracy, %", "class F1"],
        "served": ["0", "1"],
        "response": "ClassifyResponse",
    }
