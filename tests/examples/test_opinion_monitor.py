"""The page of the example, with a real Redis server and a tiny model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.inference.runtime import Student
from potstill.registry.version_artifacts import SERVING
from tests.conftest import REPOSITORY, generate_rows
from tests.e2e.pages import Shell, commands
from tests.redis_server import need_redis
from tests.registries import write_champion

EXAMPLE = REPOSITORY / "examples/opinion-monitor"


@pytest.mark.slow
def test_the_spike_is_told_once_and_is_in_the_picture(tiny_base: Path, tmp_path: Path) -> None:
    need_redis()
    home = write_champion(tiny_base, tmp_path)
    workspace = home / "workspace"
    shutil.copytree(EXAMPLE, workspace / "examples/opinion-monitor")
    shutil.copyfile(REPOSITORY / "params.yaml", workspace / "params.yaml")
    texts = [text for text, _ in generate_rows(300)]
    # A random model finds no opinions, so the labels are its own answers.
    answers = Student(workspace / "model" / SERVING, 1).predict(texts)
    labels = [int(answer.label == "positive") for answer in answers]
    (workspace / "data/prepared").mkdir(parents=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), workspace / "data/prepared/test.parquet")
    with Shell(workspace, home) as shell:
        *_, picture = [shell.run(block) for block in commands(EXAMPLE / "README.md")]
    (log,) = [path.read_text() for path in home.glob("README.md*.log") if "alert:" in path.read_text()]
    told = re.findall(r"^alert: ([a-z-]+): .*\((.*)\)$", log, re.MULTILINE)
    assert len(set(told)) == len(told)
    # A random model is never sure.
    assert [rule for rule, _ in told if rule != "unsure"] == ["mostly-negative", "negative-rises"]
    shares = [int(share) for share in re.findall(r"(\d+)% negative", picture)]
    assert len(shares) == 48
    assert shares.index(max(shares)) == 36
