from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from potstill import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("prefect", "mlflow", "dvc", "torch", "pydantic", "bentoml", "pandas", "numpy", "yaml", "rich.console")


def potstill(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "HOME": str(cwd)},
    )  # fmt: skip


@pytest.mark.slow
def test_help_names_every_command(tmp_path: Path) -> None:
    shown = potstill("--help", cwd=tmp_path)
    assert shown.returncode == 0
    commands = (
        "run",
        "join",
        "status",
        "params",
        "probe",
        "search",
        "serve",
        "init",
        "doctor",
        "schedule",
        "up",
        "down",
        "notify",
        "review",
        "trace",
        "score",
        "promote",
        "approve",
        "veto",
        "rollback",
        "freeze",
        "unfreeze",
        "history",
        "fetch",
        "relocate",
        "backup",
        "restore",
        "gc",
        "accept",
        "drift",
        "feedback",
        "key",
    )
    for command in commands:
        assert command in shown.stdout


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import json, sys, flows.cli; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "flows.cli", "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    # Help itself is printed with rich.
    assert imported & set(HEAVY) == {"rich.console"}


@pytest.mark.slow
def test_a_key_is_shown_once_and_stored_as_its_sum(tmp_path: Path) -> None:
    created = potstill("key", "mine", "--file", "keys", cwd=tmp_path)
    stored = (tmp_path / "keys").read_text()
    assert created.returncode == 0
    assert stored == f"mine:{hashlib.sha256(created.stdout.strip().encode()).hexdigest()}\n"
    again = potstill("key", "mine", "--file", "keys", cwd=tmp_path)
    assert (again.returncode, (tmp_path / "keys").read_text()) == (3, stored)
    assert "there twice" in again.stderr
    assert "POTSTILL_API_KEYS=mine:" in potstill("key", "mine", cwd=tmp_path).stderr


def test_version(tmp_path: Path) -> None:
    assert potstill("--version", cwd=tmp_path).stdout == f"potstill {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run"], 3, "params.yaml does not exist"),
        (["run", "--set", "a=1"], 3, "params.yaml does not exist"),
        (["status"], 3, "params.yaml does not exist"),
        (["probe"], 3, "params.yaml does not exist"),
        (["search"], 3, "params.yaml does not exist"),
        (["serve"], 3, "params.yaml does not exist"),
        (["schedule"], 3, "params.yaml does not exist"),
        (["join"], 3, "params.yaml does not exist"),
        (["up"], 3, "params.yaml does not exist"),
        (["up", "--status"], 3, "params.yaml does not exist"),
        (["notify"], 3, "params.yaml does not exist"),
        (["predict", "a.csv", "--out", "b.csv"], 3, "params.yaml does not exist"),
        (["predict", "a.csv"], 2, "give INPUT... and --out, --from and --to, or"),
        (
            ["predict", "a.csv", "--out", "b.csv", "--from", "redis://a/0/b"],
            2,
            "give INPUT... and --out, --from and --to",
        ),
        (["drift"], 3, "params.yaml does not exist"),
        (["feedback", "labels.csv"], 3, "params.yaml does not exist"),
        (["approve", "1"], 3, "params.yaml does not exist"),
        (["review"], 3, "params.yaml does not exist"),
        (["trace", "1"], 3, "params.yaml does not exist"),
        (["promote", "1", "--reason", "x"], 3, "params.yaml does not exist"),
        (["promote", "1"], 2, "Missing option '--reason'"),
        (["rollback", "--reason", "x"], 3, "params.yaml does not exist"),
        (["accept"], 10, "data/validation"),
        (["params", "distill.temprature"], 3, "unknown key 'distill.temprature'; did you mean 'temperature'?"),
        (["rnu"], 2, "No such command 'rnu'"),
        (["run", "--port", "1"], 2, "No such option"),
    ],
)
def test_outside_a_workspace_every_command_says_what_to_do(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    done = potstill(*arguments, cwd=tmp_path)
    assert done.returncode == code, done
    assert words in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_without_dvc_or_git_the_folder_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    done = potstill("status", cwd=tmp_path)
    assert (done.returncode, "it has no dvc.yaml" in done.stderr) == (60, True)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    done = potstill("status", cwd=tmp_path)
    assert done.returncode == 60
    assert "potstill doctor" in done.stderr


@pytest.mark.slow
def test_serving_without_a_champion_or_its_bento(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    done = potstill("serve", cwd=tmp_path)
    assert (done.returncode, "has no champion yet" in done.stderr) == (50, True)
    done = potstill("serve", "--tag", "nothing:here", cwd=tmp_path)
    assert (done.returncode, "is not in the store" in done.stderr) == (51, True)
    decisions = [["approve", "1"], ["rollback", "--reason", "x"]]
    for command in (["fetch"], *decisions, ["history"], ["review"], ["trace", "1"]):
        done = potstill(*command, cwd=tmp_path)
        assert (done.returncode, "has no champion yet" in done.stderr) == (50, True)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_doctor_says_what_to_do_and_ends_with_its_code(tmp_path: Path) -> None:
    done = potstill("doctor", cwd=tmp_path)
    assert done.returncode == 60
    lines = {line[5:].split()[0]: line for line in done.stdout.splitlines()}
    assert lines["dvc"].startswith("FAIL")
    assert "potstill init" in lines["dvc"]
    assert lines["telemetry"].startswith("ok")
    assert lines["python"].startswith("ok")
