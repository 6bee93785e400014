"""kill -9 at any moment, and the same command again ends with the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from potstill.prediction.output_parts import OutputParts
from tests.conftest import REPOSITORY, generate_rows
from tests.kills import kill_count, killed_in_write
from tests.potstill.prediction.models import csv_bytes, tiny_model

pytestmark = pytest.mark.slow
ROWS = 2400
WINDOWS = 48  # of the rows of `predicting_process`


def start(serving: Path, output: Path) -> subprocess.Popen[bytes]:
    module = "tests.potstill.prediction.predicting_process"
    words = [sys.executable, "-m", module, str(serving), str(output.with_name("in.csv")), str(output)]
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def parts(output: Path) -> int:
    return len(list(Path(f"{output}.parts").glob("*.json")))


def kill_when(process: subprocess.Popen[bytes], condition: Callable[[], bool], pause: float) -> bool:
    """Kill a process some time after a condition has come true; whether it was still running then."""
    while process.poll() is None and not condition():
        time.sleep(0.001)
    time.sleep(pause)
    process.kill()
    return process.wait() != 0


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
    kills = kill_count(5)
    moments: list[Callable[[], bool]] = [Path(f"{output}.manifest.json").exists]
    counts = range(0, WINDOWS, -(-WINDOWS // (kills - 2)))
    moments += [lambda count=count: parts(output) > count for count in counts]  # type: ignore[misc]
    moments += [output.with_name(f".{output.name}.tmp").exists] * (kills - len(moments))
    killed = [kill_when(start(serving, output), moment, generator.uniform(0, 0.03)) for moment in moments]
    print(f"{len(killed)} kills of the prediction of a file, {sum(killed)} before its end: the same bytes")
    assert sum(killed) > len(killed) / 2
    assert start(serving, output).wait() == 0
    for name in ("", ".rejected.jsonl", ".explained.jsonl"):
        same = Path(f"{output}{name}").read_bytes().replace(b"killed/", b"whole/")
        assert same == Path(f"{whole}{name}").read_bytes()
    assert sorted(path.name for path in output.parent.iterdir()) == sorted(path.name for path in whole.parent.iterdir())


def test_a_kill_while_the_manifest_is_written_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = OutputParts(Path("out.jsonl"))
    for is_given_up, left in ((True, []), (False, ["out.jsonl.manifest.json"])):
        parts.folder.mkdir()
        killed_in_write(OutputParts.__module__, "OutputParts(Path('out.jsonl')).begin({})", tmp_path)
        assert list(tmp_path.glob(".*"))
        with parts.held():
            parts.discard() if is_given_up else parts.begin({})
        assert [path.name for path in tmp_path.iterdir()] == left
