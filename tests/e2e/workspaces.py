"""Workspaces of the end-to-end tests, driven as a user drives them: by commands."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.checkout import git

BIN = Path(sys.executable).parent

# Small enough for seconds, large enough to be learned: a tiny random model has to see its rows often.
TINY = [
    "prepare.augment.crops=1",
    "prepare.augment.splices=0",
    "tokenize.max_length=48",
    "teacher.epochs=6",
    "teacher.learning_rate=0.005",
    "teacher.batch_tokens=512",
    "teacher.average_decay=0.9",
    "distill.epochs=6",
    "distill.average_decay=0.9",
    "distill.learning_rate=0.005",
    "distill.batch_tokens=512",
    # As in params/full.yaml, so that every stage has something to do.
    "finetune.epochs=1",
    "finetune.batch_tokens=512",
    "control.initialised=true",
    "control.epochs=6",
    "control.learning_rate=0.005",
    "control.batch_tokens=512",
    "project.precision=fp32",
    "evaluate.latency_texts=10",
    "evaluate.throughput_texts=40",
    "evaluate.rounds=1",
    "evaluate.bootstrap=200",
    "export.int8_min_agreement=0.8",
    "export.int8_max_accuracy_drop=0.1",
    "gate.min_teacher_ratio=0.8",
    "gate.min_gain_over_control_upper=null",
    "gate.max_ece=null",
    "gate.min_speedup=null",
    "gate.min_advantage=null",
    "smoke.texts=8",
]


def environment(home: Path) -> dict[str, str]:
    """A user's environment whose tools keep their state below `home`."""
    return os.environ | {
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "BENTOML_HOME": str(home / "bentoml"),
        "PREFECT_HOME": str(home / "prefect"),
        "COLUMNS": "160",
    }


def command(*words: str, cwd: Path, home: Path, expect: int | None = 0, seconds: float = 600) -> str:
    """Run a command as a user would and return what it printed; a traceback is never right."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert "Traceback" not in done.stdout, done.stdout
    assert expect is None or done.returncode == expect, f"{words} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def make_workspace(folder: Path, data: Path, teacher: Path, home: Path, settings: list[str]) -> Path:
    """`potstill init`, then settings written as `--set` writes them, without a run."""
    words = ["potstill", "init", str(folder), "--data", str(data), "--text", "text", "--label", "label"]
    command(*words, "--teacher", str(teacher), cwd=folder.parent, home=home)
    apply_settings(folder, home, settings)
    return folder


def apply_settings(folder: Path, home: Path, settings: list[str]) -> None:
    """Write settings into a new workspace, and commit it."""
    from flows.commands.params_changes import change_params

    change_params(folder / "params.yaml", None, settings)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")


def store(folder: Path, query: str) -> list[tuple[object, ...]]:
    """Ask a workspace's MLflow store."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute(query).fetchall()


def champion(folder: Path) -> object:
    """The number of the champion in a workspace's MLflow store."""
    ((version,),) = store(folder, "select version from registered_model_aliases where alias = 'champion'")
    return version


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes whose working folder is below `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place, line = os.readlink(process / "cwd"), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if place.startswith(str(folder)) and line:
            found.append(line.replace(b"\0", b" ").decode())
    return found
