"""kill -9 at any moment, and the same command again ends with the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import REPOSITORY, generate_rows
from tests.potstill.prediction.models import csv_bytes, tiny_model

pytestmark = pytest.mark.slow
ROWS = 2400


def start(serving: Path, output: Path, **more: Any) -> subprocess.Popen[bytes]:
    module = "tests.potstill.prediction.predicting_process"
    words = [sys.executable, "-m", module, str(serving), str(output.with_name("in.csv")), str(output)]
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL, **more)


def parts(output: Path) -> int:
    return len(list(Path(f"{output}.parts").glob("*.json")))


def kill_when(process: subprocess.Popen[bytes], condition: Callable[[], bool], pause: float) -> bool:
    """Kill a process some time after a condition has come true; whether it was still running then."""
    while process.poll() is None and not condition():
        time.sleep(0.001)
    time.sleep(pause)
    workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    killed = process.wait() != 0
    assert not psutil.wait_procs(workers, timeout=20)[1]  # none goes on without its parent
    return killed


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    serving = tiny_model(tiny_base, tmp_path / "serving", variant="fp32").serving
    texts = [text for text, _ in generate_rows(ROWS, seed=5)]
    texts[100] = texts[2000] = ""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in.csv").write_bytes(csv_bytes([["id", "text"], *enumerate(texts)]))
    whole, output = tmp_path / "whole" / "out.parquet", tmp_path / "killed" / "out.parquet"
    assert start(serving, whole).wait() == 0
    generator = random.Random(4)
    moments: list[Callable[[], bool]] = [Path(f"{output}.manifest.json").exists]
    moments += [lambda count=count: parts(output) > count for count in (0, 12, 30)]  # type: ignore[misc]
    moments.append(output.with_name(f".{output.name}.tmp").exists)
    killed = [kill_when(start(serving, output), moment, generator.uniform(0, 0.03)) for moment in moments]
    assert sum(killed) > 2
    assert start(serving, output).wait() == 0
    for name in ("", ".rejected.jsonl"):
        same = Path(f"{output}{name}").read_bytes().replace(b"killed/", b"whole/")
        assert same == Path(f"{whole}{name}").read_bytes()
    assert sorted(path.name for path in output.parent.iterdir()) == sorted(path.name for path in whole.parent.iterdir())


def test_a_process_that_dies_ends_the_run_which_can_go_on(tiny_base: Path, tmp_path: Path) -> None:
    serving = tiny_model(tiny_base, tmp_path / "serving").serving
    texts = [text for text, _ in generate_rows(ROWS, seed=5)]
    (tmp_path / "in.csv").write_bytes(csv_bytes([["id", "text"], *enumerate(texts)]))
    output = tmp_path / "out.jsonl"
    process = start(serving, output, stderr=subprocess.PIPE)
    while process.poll() is None and not parts(output):
        time.sleep(0.001)
    for worker in psutil.Process(process.pid).children(recursive=True):
        worker.kill()
    _, said = process.communicate()
    assert b"a process that computes answers has died, perhaps for want of memory; run again to go on" in said
    assert parts(output)
    assert start(serving, output).wait() == 0
    assert len(output.read_bytes().splitlines()) == ROWS
