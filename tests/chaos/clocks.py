"""The clock is set back an hour between two decisions, by Debian's faketime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.registry.promotion import Registry
from tests.conftest import REPOSITORY
from tests.registries import PROJECT, new_store

pytestmark = pytest.mark.slow

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
HOUR = 3600
# Promotes a version, sets its clock back, promotes the next one, and prints the time at each.
PROMOTIONS = """
import os, time
from pathlib import Path
from potstill.registry.promotion import Registry
from tests.registries import PROJECT, add_version
registry = Registry(Path.cwd(), PROJECT)
for version, before in (("1", None), ("2", "1")):
    add_version(registry, f"content {version}")
    registry.promote(version, expected=before)
    print(time.time(), flush=True)
    Path(os.environ["FAKETIME_TIMESTAMP_FILE"]).write_text("-1h")
"""


def clock(file: Path) -> dict[str, str]:
    """Variables of processes whose clock, by which nothing but the time of day is told, is shifted as a file says."""
    if not LIBRARIES:
        pytest.skip("faketime is not installed (apt-get install faketime)")
    file.write_text("+0")
    return {
        "LD_PRELOAD": str(LIBRARIES[-1]), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip


def test_promotions_after_the_clock_was_set_back(tmp_path: Path) -> None:
    workspace = new_store(tmp_path / "w")
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **clock(tmp_path / "clock")}
    done = subprocess.run(
        [sys.executable, "-c", PROMOTIONS], cwd=workspace, env=variables, capture_output=True, text=True, check=True
    )
    first, second = map(float, done.stdout.split())
    assert first - HOUR < second < first
    registry = Registry(workspace, PROJECT)
    champion = registry.champion()
    assert champion is not None
    assert champion.version == "2"
    assert not registry.history().open
    assert registry.roll_back(None, "it shouts").version == "1"
