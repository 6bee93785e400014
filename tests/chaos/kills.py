"""kill -9 at random moments: of a run, of each stage by itself, and while a checkpoint is written."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from flows.engine.pipeline_run import CURRENT
from flows.engine.prefect_flow import CANDIDATE_STEPS
from potstill.artifacts import file_sums
from potstill.compute.processes import last_holder
from potstill.config.yaml_file import load_yaml
from potstill.paths import DVC_FILE, DVC_LOCK, REGISTRY_LOCK, STAGE_LOCK
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.training import checkpoints
from tasks.stage import INSIDE_RUN
from tests.flows.conftest import Toy, ended, until
from tests.potstill.compute.test_processes import alive
from tests.registries import PROJECT
from tests.tasks.data_workspace import make_workspace, run_stages

pytestmark = pytest.mark.slow

# How long after its limit a stage may go on.
LATE_SECONDS = 10.0
HANGING = Path(".work/hanging")
# What has to be gone this long after the process that started it was killed.
ORPHAN_SECONDS = 5.0
TOY_STAGES = ("prepare", "export", "evaluate")
STEPS = TOY_STAGES + CANDIDATE_STEPS
# Its processes begin with what takes seconds to import, and are forked from one that has done nothing else.
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["tests.chaos.kills", "tasks.distill", "tasks.evaluate"])


@dataclass
class Going:
    """A run of `potstill run`, with the lines that it has printed so far."""

    toy: Toy
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "flows.cli", "run"], cwd=self.toy.folder, env=self.toy.variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.toy.started.append(self.process)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def has_begun(self, step: str) -> bool:
        """Whether the run has reached a step, by what the step leaves as soon as it is at work."""
        folder = self.toy.folder
        if step in TOY_STAGES:
            return any(f"{step}.py" in command for command in self.toy.processes())
        if step == "smoke":
            return any("bentoml" in command and "serve" in command for command in self.toy.processes())
        if step == "register":
            return last_holder(folder / REGISTRY_LOCK) == self.process.pid
        line = {"gate": "evaluate: ", "package": "gate: ", "promote": "register: "}[step]
        # A stage is done when DVC says so, a moment after it has said so itself.
        done = step != "gate" or "\n  evaluate:" in (folder / DVC_LOCK).read_text(encoding="utf-8")
        return done and any(said.startswith(line) for said in self.lines)

    def kill(self, *, group: bool) -> None:
        """Kill the run's whole process group or the run alone, and see that all it has started ends."""
        family: list[psutil.Process] = []
        if not self.has_ended():
            family = psutil.Process(self.process.pid).children(recursive=True)
            (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert until(lambda: not any(alive(process.pid) for process in family), ORPHAN_SECONDS), family
        self._reader.join()

    def has_ended(self) -> bool:
        """Whether the run has come to its end: what a killed one had registered leaves only the promotion."""
        return self.process.poll() is not None


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed: what it ended with, and how long each of its steps took."""

    sums: dict[str, Any]
    seconds: dict[str, float]


def final_sums(toy: Toy) -> dict[str, Any]:
    """Everything that a run ends with: the files of its outs, and its versions in the registry with their Bentos."""
    registry = Registry(toy.folder, PROJECT)
    versions = [(version.version, version.candidate, version.bento) for version in registry.versions()]
    return {"outs": file_sums(toy.folder / "data"), "versions": versions, "champion": registry.champion() is not None}


@pytest.fixture(scope="module")
def undisturbed(
    template: Path, variables: dict[str, str], prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    """See the class."""
    folder = tmp_path_factory.mktemp("undisturbed") / "toy"
    shutil.copytree(template, folder)
    bento_home = str(tmp_path_factory.mktemp("bentoml"))
    toy = Toy(folder, {**variables, "PREFECT_API_URL": prefect_server, "BENTOML_HOME": bento_home})
    ended = toy.run("run")
    assert ended.code == 0, ended
    pattern = re.compile(rf"^  ({'|'.join(STEPS)}) +([0-9.]+) s", re.MULTILINE)
    return Undisturbed(final_sums(toy), {step: float(seconds) for step, seconds in pattern.findall(ended.out)})


def test_a_run_that_is_killed_in_every_step_goes_on_and_ends_with_the_same_sums(
    toy: Toy, undisturbed: Undisturbed, tmp_path: Path, chance: random.Random
) -> None:
    toy.variables["BENTOML_HOME"] = str(tmp_path / "bentoml")
    finished: list[str] = []
    for step, seconds in undisturbed.seconds.items():
        run = Going(toy)
        assert until(lambda run=run, step=step: run.has_begun(step) or run.has_ended())  # type: ignore[misc]
        time.sleep(chance.uniform(0, seconds))
        run.kill(group=chance.random() < 0.5)
        assert_only_the_rest_ran(run, finished)
        finished = [stage for stage in TOY_STAGES if STEPS.index(stage) < STEPS.index(step)]
    last = Going(toy)
    last.process.wait()
    assert last.process.returncode == 0, last.lines
    assert_only_the_rest_ran(last, finished)
    assert final_sums(toy) == undisturbed.sums


def assert_only_the_rest_ran(run: Going, finished: list[str]) -> None:
    """A run says of each stage that was finished before that it is current."""
    said = [line.strip() for line in run.lines if line.startswith(tuple(f"{stage}: " for stage in finished))]
    assert said == [f"{stage}: {CURRENT}" for stage in finished]


def test_nothing_is_left_5_s_after_the_parent_alone_was_killed(toy: Toy, chance: random.Random) -> None:
    stage = chance.choice(TOY_STAGES)
    run = Going(Toy(toy.folder, toy.variables | {"TOY_HANG": stage}, toy.started))
    assert until((toy.folder / HANGING).exists)
    run.kill(group=False)
    assert toy.processes() == []


def test_a_stage_that_hangs_is_ended_within_10_s_of_its_limit(toy: Toy) -> None:
    limit_seconds = 30
    run = toy.start("run", "--set", f"schedule.stage_minutes={limit_seconds / 60}", TOY_HANG="prepare")
    assert until((toy.folder / HANGING).exists)
    stage = psutil.Process(int((toy.folder / HANGING).read_text(encoding="utf-8")))
    started, family = stage.create_time(), [stage, *stage.children(recursive=True)]
    assert until(lambda: not any(alive(process.pid) for process in family))
    assert time.time() - started < limit_seconds + LATE_SECONDS
    late = ended(run)
    assert (late.code, toy.processes()) == (6, []), late


# The stages that go through their work in one process; each by itself is killed and run again.
STAGES = (
    "ingest", "prepare", "validate", "pretrain", "tokenize", "teacher", "signals", "general", "distill", "finetune",
    "control", "proof", "export", "quantize", "evaluate",
)  # fmt: skip
PLAN = {"epochs": 4, "dropout": 0.0, "batch_tokens": 256, "learning_rate": 1e-3, "checkpoint_seconds": 0.05}


@pytest.fixture(scope="module")
def all_stages(
    tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path
) -> tuple[Path, dict[str, float]]:
    """A workspace whose stages have all run, with the seconds that each took."""
    folder, seconds = tmp_path_factory.mktemp("stages") / "w", {}
    training: dict[str, dict[str, Any]] = dict.fromkeys(("teacher", "finetune", "control"), PLAN)
    training["distill"] = {**PLAN, "layers": [0, 2]}
    quick = {"latency_texts": 10, "throughput_texts": 40, "rounds": 1, "bootstrap": 100}
    make_workspace(folder, tiny_rows, tiny_base, project={"precision": "fp32"}, evaluate=quick, **training)
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            begin = time.monotonic()
            run_stages(stage, monkeypatch=patch, folder=folder)
            seconds[stage] = time.monotonic() - begin
    return folder, seconds


def _run_stage(name: str, folder: Path) -> None:
    """Do what `python -m tasks.<stage>` does inside a run, in a process that has loaded the libraries already."""
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ |= {INSIDE_RUN: "1", tracking.RECORDS: str(folder / "records")}
    runpy.run_module(f"tasks.{name}", run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_leaves_no_part_of_an_out_and_ends_with_the_same_bytes(
    stage: str, all_stages: tuple[Path, dict[str, float]], tmp_path: Path, chance: random.Random
) -> None:
    template, seconds = all_stages
    folder = tmp_path / "w"
    shutil.copytree(template, folder)
    outs = load_yaml((folder / DVC_FILE).read_text(encoding="utf-8"))["stages"][stage]["outs"]
    outs = [out for out in outs if isinstance(out, str)]
    whole = {out: file_sums(folder / out) for out in outs}
    for out in outs:
        shutil.rmtree(folder / out)

    killed = FORKING.Process(target=_run_stage, args=(stage, folder))
    killed.start()
    assert until(lambda: last_holder(folder / STAGE_LOCK) == killed.pid or not killed.is_alive())
    time.sleep(chance.uniform(0, seconds[stage]))
    with suppress(ProcessLookupError):  # it was faster than before
        os.killpg(killed.pid or 0, signal.SIGKILL)
    killed.join()
    for out in outs:
        assert not (folder / out).exists() or file_sums(folder / out) == whole[out]

    again = FORKING.Process(target=_run_stage, args=(stage, folder))
    again.start()
    again.join()
    assert again.exitcode == 0
    assert {out: file_sums(folder / out) for out in outs} == whole


def _save_until_killed(folder: Path) -> None:
    for step in itertools.count(1):
        weights = {"weight": torch.full((200, 200), float(step))}
        checkpoints.save(folder, step, {"model": weights, "optimizer": weights}, {"step": step})


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path, chance: random.Random) -> None:
    writer = FORKING.Process(target=_save_until_killed, args=(tmp_path,))
    writer.start()
    assert until(lambda: len(list(tmp_path.glob("step-*"))) >= checkpoints.KEEP)
    time.sleep(chance.uniform(0, 0.1))
    writer.kill()
    writer.join()
    loaded = checkpoints.newest(tmp_path)
    assert loaded is not None
    groups, state = loaded
    assert all(tensors["weight"].eq(state["step"]).all() for tensors in groups.values())
    assert state["step"] >= max(int(path.name.removeprefix("step-")) for path in tmp_path.glob("step-*")) - 1
