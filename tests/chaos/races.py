"""Two runs that begin at nearly the same time, in one workspace and in two clones that share a registry."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from potstill.artifacts import file_sums
from tests.chaos.kills import Undisturbed, final_sums, undisturbed
from tests.flows.conftest import Toy, ended

__all__ = ["undisturbed"]

pytestmark = pytest.mark.slow


def codes_of_two_runs(first: Toy, second: Toy, seconds: float) -> list[int]:
    """Run in both, the second so many seconds after the first, and return the exit codes."""
    running = [first.start("run")]
    time.sleep(seconds)
    running.append(second.start("run"))
    endings = [ended(run) for run in running]
    assert not [ending for ending in endings if "Traceback" in ending.out + ending.err]
    assert {ending.code for ending in endings} <= {0, 4}, [ending.err for ending in endings]
    return [ending.code for ending in endings]


def test_two_runs_at_once_in_one_workspace(
    toy: Toy, undisturbed: Undisturbed, tmp_path: Path, chance: random.Random
) -> None:
    toy.variables["BENTOML_HOME"] = str(tmp_path / "bentoml")
    codes = codes_of_two_runs(toy, toy, chance.uniform(0, sum(undisturbed.seconds.values())))
    # The second one is told to wait, or had nothing left to do; of two that begin together, the first may be told.
    assert sorted(codes) in ([0, 4], [0, 0])
    assert final_sums(toy) == undisturbed.sums


def test_two_runs_at_once_in_two_clones(
    toy: Toy, undisturbed: Undisturbed, tmp_path: Path, chance: random.Random
) -> None:
    toy.variables["BENTOML_HOME"] = str(tmp_path / "bentoml")
    toy.variables["MLFLOW_TRACKING_URI"] = f"sqlite:///{toy.folder}/mlflow.db"
    clone = Toy(tmp_path / "clone", toy.variables, toy.started)
    shutil.copytree(toy.folder, clone.folder)
    assert codes_of_two_runs(toy, clone, chance.uniform(0, sum(undisturbed.seconds.values()))) == [0, 0]
    assert final_sums(toy) == undisturbed.sums  # one version, since both made the same bytes
    assert file_sums(clone.folder / "data") == undisturbed.sums["outs"]
