from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow.lib
import pytest

from potstill.causes import full_disk, unexpected
from potstill.errors import DiskFullError

REPOSITORY = Path(__file__).resolve().parents[2]

# Runs in a folder of 64 kB. Each library writes more than that and reports the failure in its own way.
WRITERS = """
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy
import torch
from safetensors.numpy import save_file

from potstill.causes import unexpected

large = np.random.default_rng(0).random(100_000)

def sql():
    engine = sqlalchemy.create_engine("sqlite:///x.db")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE x AS SELECT zeroblob(1000000)"))

for write in [
    lambda: Path("text").write_text("x" * 100_000),
    lambda: np.save("x.npy", large),
    lambda: pq.write_table(pa.table({"x": large}), "x.parquet"),
    lambda: save_file({"x": large}, "x.safetensors"),
    lambda: torch.save(torch.from_numpy(large), "x.pt"),
    sql,
    lambda: shutil.copyfile(pa.lib.__file__, "file"),
    lambda: shutil.copytree(Path(shutil.__file__).parent / "json", "folder"),
]:
    try:
        write()
    except Exception as error:
        print(type(error).__name__, *unexpected(error, Path("log"))[::-1])
    for path in Path().glob("*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
"""

SMALL_DISK = """
set -e
mount -t tmpfs -o size=64k tmpfs {folder}
cd {folder}
{commands}
"""


def on_a_small_disk(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """Run shell commands in a folder of 64 kB; skip the test where no process may mount a file system."""
    unshare = ["unshare", "-rm", "sh", "-c"]
    if subprocess.run([*unshare, f"mount -t tmpfs tmpfs {folder}"], capture_output=True, check=False).returncode:
        pytest.skip("no process may mount a file system here")
    return subprocess.run(
        [*unshare, SMALL_DISK.format(folder=folder, commands=commands)], capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_a_full_disk_is_recognised_in_the_errors_of_every_library(tmp_path: Path) -> None:
    script = tmp_path / "writers.py"
    script.write_text(WRITERS, encoding="utf-8")
    folder = tmp_path / "small"
    folder.mkdir()
    done = on_a_small_disk(folder, f"{sys.executable} {script}")
    lines = done.stdout.splitlines()
    assert len(lines) == 8, done.stderr
    assert all(line.split()[1] == "5" and "no space left" in line for line in lines), done.stdout
    assert all("are free on that disk" in line for line in lines), done.stdout
    size = os.path.getsize(pyarrow.lib.__file__) / 1e6
    assert f"{folder}/file (it takes at least {size:.1f} MB" in lines[-2], done.stdout
    assert f"{folder}/folder/" in lines[-1], done.stdout
    assert "it takes at least" in lines[-1], done.stdout


def test_a_full_disk_is_recognised_by_its_message_alone() -> None:
    from mlflow.exceptions import MlflowException

    with sqlite3.connect(":memory:") as database:
        database.execute("PRAGMA max_page_count = 2")
        database.execute("CREATE TABLE x (y BLOB)")
        with pytest.raises(sqlite3.OperationalError) as raised:
            database.execute("INSERT INTO x VALUES (zeroblob(1000000))")
    assert isinstance(full_disk(MlflowException(f"could not log: {raised.value}"), "x"), DiskFullError)
    assert full_disk(MlflowException("no such version")) is None


@pytest.mark.slow
def test_a_stage_on_a_full_disk_ends_with_one_sentence(tmp_path: Path) -> None:
    commands = f"""
        cp -r {REPOSITORY}/tests/flows/toy . && cd toy && mv graph.yaml dvc.yaml && cp {REPOSITORY}/params.yaml .
        head -c 65536 /dev/zero > filler 2> /dev/null || true
        exec {sys.executable} prepare.py
    """
    done = on_a_small_disk(tmp_path, commands)
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("prepare: no space left")
    assert "Traceback" not in done.stderr


def test_only_unexplained_errors_are_called_bugs(tmp_path: Path) -> None:
    from dvc.exceptions import DvcException

    log = tmp_path / "log.txt"
    for error, message in [
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "a connection failed with Conn"),
        (PermissionError(errno.EACCES, "Permission denied"), "this machine failed with PermissionError"),
        (MemoryError(), "this machine failed with MemoryError"),
        (DvcException("no cache"), "DVC failed with DvcException: no cache"),
    ]:
        sentence, code = unexpected(error, log)
        assert (code, message in sentence, "this is a bug" in sentence) == (1, True, False), sentence
    assert "this is a bug of Potstill" in unexpected(KeyError("x"), log)[0]
    assert log.exists()


def test_what_may_not_be_used_or_is_not_installed_is_no_bug(tmp_path: Path) -> None:
    for error, message in [
        (OSError(errno.EROFS, "Read-only file system", ".work/logs"), ".work/logs cannot be used (Read-only file sys"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x cannot be used (Permission denied); give this"),
        (ModuleNotFoundError("No module named 'dvc.repo'", name="dvc.repo"), "the package dvc.repo is not installed"),
    ]:
        sentence, code = unexpected(error, tmp_path / "log.txt")
        assert (code, message in sentence) == (60, True), sentence
    own = ModuleNotFoundError("No module named 'potstill.x'", name="potstill.x")
    assert "this is a bug of Potstill" in unexpected(own, tmp_path / "log.txt")[0]


def test_a_traceback_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file", encoding="utf-8")
    assert unexpected(KeyError("x"), tmp_path / "logs" / "log.txt")[0].endswith("'x' (this is a bug of Potstill)")


def test_no_password_of_a_url_is_shown_or_logged(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    sentence, _ = unexpected(ValueError("404 at http://user:secret@example.org/api"), log)
    assert "404 at http://***@example.org/api" in sentence
    assert "secret" not in log.read_text(encoding="utf-8")
