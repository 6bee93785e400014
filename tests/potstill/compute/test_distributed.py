from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from potstill.artifacts import file_sums, read_json, verify
from potstill.compute.distributed import World, current_world, local_device
from tests.conftest import REPOSITORY
from tests.potstill.distillation import shared as extraction
from tests.potstill.training import shared

PROCESSES = 2


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The folder with the results of every case on two gloo processes that torchrun started, and what they printed."""
    folder = tmp_path_factory.mktemp("results")
    extraction.prepare(tiny_base, folder)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [*launcher, "-m", "tests.potstill.compute.shared", str(tiny_base), str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "printed").write_text(done.stdout, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", shared.CASES)
def test_two_processes_end_with_the_weights_of_one(tmp_path: Path, tiny_base: Path, results: Path, name: str) -> None:
    student, outcome, goal = shared.run(tiny_base, tmp_path, name)
    expected = dict(student.state_dict()) | {f"objective/{key}": value for key, value in goal.state_dict().items()}
    initial = shared.narrow(tiny_base).state_dict()
    assert sum(key.startswith("objective/") for key in expected) == 4
    for rank in range(PROCESSES):
        actual = load_file(results / f"{name}-{rank}.safetensors")
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert actual[key].numpy() == pytest.approx(value.numpy(), abs=2e-5), key
    # Training changed the weights: they are not equal for lack of updates.
    key = "bert.encoder.layer.0.output.dense.weight"
    assert float((expected[key] - initial[key]).abs().max()) > 1e-3
    summary = read_json(results / f"{name}.json")
    assert summary["rows"] == outcome.rows == 2 * len(shared.TRAIN)
    assert summary["scores"] == pytest.approx(outcome.scores, abs=0.011)
    assert summary["resumed_at"] == outcome.resumed_at == (shared.CASES[name][1] or 0)
    ours = {(step, name): value for step, name, value in outcome.history}
    theirs = {(step, name): value for step, name, value in summary["history"]}
    assert theirs.keys() == ours.keys()
    losses = [key for key in ours if key[1] != "dev"]
    assert [theirs[key] for key in losses] == pytest.approx([ours[key] for key in losses], abs=1e-4)


@pytest.mark.slow
def test_assistants_and_mutual_students_are_the_same_on_two_processes(
    tmp_path: Path, tiny_base: Path, results: Path
) -> None:
    expected = shared.several(tiny_base, tmp_path)
    assert {name.partition("/")[0] for name in expected} == {"assistant-0", "mutual-0", "mutual-1"}
    for rank in range(PROCESSES):
        actual = load_file(results / f"several-{rank}.safetensors")
        for key, value in expected.items():
            assert actual[key].numpy() == pytest.approx(value.numpy(), abs=2e-4), key


@pytest.mark.slow
def test_only_the_first_process_prints_the_progress_of_training(results: Path) -> None:
    rows = 2 * len(shared.TRAIN)
    printed = (results / "printed").read_text(encoding="utf-8")
    assert printed.count(f"distill: {rows}/{rows} rows") == len(shared.CASES)


@pytest.mark.slow
def test_processes_share_the_shards_of_signals(results: Path) -> None:
    printed = (results / "printed").read_text(encoding="utf-8")
    assert printed.count("signals: 4 of 60 rows are there from the run before") == 1
    assert "signals, process 1 of 2: 32/32 rows" in printed
    seen = [read_json(results / f"seen-{rank}.json") for rank in range(PROCESSES)]
    assert sorted(map(len, seen)) == [28, 28]
    assert len({tuple(row) for row in seen[0] + seen[1]}) == 56
    for rank in range(PROCESSES):
        assert file_sums(results / f"signals-{rank}") == file_sums(results / extraction.ALONE)


def test_a_nan_in_one_process_stops_both_and_is_saved_once(results: Path) -> None:
    sentences = [read_json(results / f"failure-{rank}.json") for rank in range(PROCESSES)]
    assert sentences[0] == sentences[1]
    assert "the kl loss became nan at step" in sentences[0]
    verify(results / "work" / "failures" / "distill")
    failure = read_json(results / "work" / "failures" / "distill" / "failure.json")
    assert failure["processes"] == PROCESSES
    # All rows of the step, not only those of one process.
    assert 0 in failure["rows"][0]
    assert len(failure["rows"][0]) > 5


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_shards_of_a_step_hold_each_of_its_rows_once(size: int, count: int) -> None:
    batches = [np.arange(10 * number, 10 * number + 5 + number) for number in range(count)]
    shards = [World(rank, size).shard(batches) for rank in range(size)]
    rows = np.concatenate([rows for shard in shards for rows in shard])
    assert sorted(rows.tolist()) == np.concatenate(batches).tolist()
    sizes = [sum(map(len, shard)) for shard in shards]
    assert max(sizes) - min(sizes) <= count * (1 + size)
    if count % size == 0:
        assert all(len(shard) == count // size for shard in shards)


def test_a_process_may_have_no_rows_of_a_step() -> None:
    assert World(1, 2).shard([np.array([3])]) == []


def test_without_torchrun_there_is_a_single_process() -> None:
    world = current_world()
    assert (world, world.is_first, world.is_single) == (World(0, 1), True, True)
    weight = torch.ones(2, requires_grad=True)
    world.sum_gradients([weight])
    assert weight.grad is None
    assert world.gather(3) == [3]
    assert world.run_on_first(lambda: 4) == 4


def test_more_processes_than_gpus_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill.errors import ToolError

    monkeypatch.setenv("LOCAL_RANK", "64")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "65")
    with pytest.raises(ToolError, match=r"65 processes share this machine, .* set compute\.processes"):
        local_device()
