from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from potstill.artifacts import read_json
from potstill.compute import compiling
from potstill.compute.compiling import MIN_STEPS, choose_compiled, compiling_pays
from potstill.compute.distributed import World
from potstill.errors import ModelError, ToolError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def choose(setting: Any, device: torch.device, **changes: Any) -> nn.Module:
    arguments: dict[str, Any] = {"obstacle": None, "steps": 10**6, "trial_step": no_trial, "measurements": None}
    return choose_compiled(setting, MODEL, device, **(arguments | changes))


def no_trial(_: nn.Module) -> None:
    raise AssertionError("nothing had to be measured")


MODEL = nn.Linear(2, 2)


def test_auto_compiles_neither_on_cpu_nor_short_runs_nor_with_an_obstacle() -> None:
    assert choose("auto", CPU) is MODEL
    assert choose(False, CUDA) is MODEL
    assert choose("auto", CUDA, steps=MIN_STEPS - 1) is MODEL
    assert choose("auto", CUDA, obstacle="terms of the loss look into the model's layers") is MODEL


def test_compile_true_is_refused_where_it_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="compile is true, but terms of the loss look"):
        choose(True, CPU, obstacle="terms of the loss look into the model's layers")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolError, match=r"this machine has no C\+\+ compiler"):
        choose(True, CPU)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own
def test_compile_true_gives_a_compiled_form_with_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    compiled = choose(True, CPU)
    assert compiled is not MODEL
    assert all(ours is theirs for ours, theirs in zip(compiled.parameters(), MODEL.parameters(), strict=True))


class Clock:
    """Time that passes only where a step says so: the machine's own depends on who else works."""

    seconds = 0.0


class Timed:
    """A step of so many milliseconds; the first call takes `first` more."""

    def __init__(self, milliseconds: float, first: float = 0.0) -> None:
        self.milliseconds = milliseconds
        self.first = first
        self.calls = 0

    def step(self) -> None:
        Clock.seconds += (self.milliseconds + (self.first if self.calls == 0 else 0.0)) / 1000
        self.calls += 1


def test_compiling_pays_if_the_steps_win_back_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", lambda: Clock.seconds)
    measurements = tmp_path / "compile.json"
    plain, compiled = Timed(12), Timed(4, first=200)
    # Saved: about 8 ms a step. Spent: about 200 ms.
    assert compiling_pays(plain, compiled, CPU, 100, Timed.step, measurements, "a model")
    calls = plain.calls
    assert not compiling_pays(plain, compiled, CPU, 10, Timed.step, measurements, "a model")
    assert plain.calls == calls  # measured once
    assert len(read_json(measurements)) == 1
    assert not compiling_pays(Timed(1), Timed(2), CPU, 10**9, Timed.step, measurements, "a model that gets slower")
    assert len(read_json(measurements)) == 2


class Second(World):
    """The second of two processes, which receives the decision of the first."""

    decision: Any = False

    def run_on_first(self, function: Any) -> Any:
        return self.decision

    def gather(self, value: Any) -> list[Any]:
        return [value, value]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("decision", [True, False])
def test_only_the_first_of_several_processes_measures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, decision: bool
) -> None:
    from transformers import BertConfig

    class ModelWithConfig(nn.Linear):
        config = BertConfig()

    Second.decision = decision
    monkeypatch.setattr(compiling, "current_world", lambda: Second(1, 2))
    monkeypatch.setattr(compiling, "_missing_tool", lambda _: None)
    model = ModelWithConfig(2, 2)
    measurements = tmp_path / "compile.json"
    chosen = choose_compiled(
        "auto", model, CUDA, obstacle=None, steps=10**6, trial_step=no_trial, measurements=measurements
    )
    assert (chosen is not model) is decision
    assert not measurements.exists()
