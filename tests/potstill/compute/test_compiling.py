from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from potstill.artifacts import read_json
from potstill.compute import compiling
from potstill.compute.compiling import FEWEST_STEPS, choose_compiled, pays
from potstill.compute.distributed import World
from potstill.errors import ModelError, ToolError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def choose(wanted: Any, device: torch.device, **changes: Any) -> nn.Module:
    settings: dict[str, Any] = {"hindrance": None, "steps": 10**6, "try_out": never, "remembered": None}
    return choose_compiled(wanted, MODEL, device, **(settings | changes))


def never(_: nn.Module) -> None:
    raise AssertionError("there was nothing to measure")


MODEL = nn.Linear(2, 2)


def test_auto_leaves_the_cpu_short_runs_and_what_changes_the_passes_alone() -> None:
    assert choose("auto", CPU) is MODEL
    assert choose(False, CUDA) is MODEL
    assert choose("auto", CUDA, steps=FEWEST_STEPS - 1) is MODEL
    assert choose("auto", CUDA, hindrance="terms of the loss look into the model's layers") is MODEL


def test_what_is_wanted_and_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="compile is true, but terms of the loss look"):
        choose(True, CPU, hindrance="terms of the loss look into the model's layers")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ToolError, match=r"this machine has no C\+\+ compiler"):
        choose(True, CPU)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own
def test_wanted_it_is_a_compiled_form_with_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    found = choose(True, CPU)
    assert found is not MODEL
    assert all(ours is theirs for ours, theirs in zip(found.parameters(), MODEL.parameters(), strict=True))


class Timed:
    """A step of so many milliseconds, and what its first one takes on top."""

    def __init__(self, milliseconds: float, first: float = 0.0) -> None:
        self.milliseconds, self.first, self.calls = milliseconds, first, 0

    def step(self) -> None:
        time.sleep((self.milliseconds + (self.first if self.calls == 0 else 0.0)) / 1000)
        self.calls += 1


def test_it_pays_where_the_steps_win_back_the_compiling(tmp_path: Path) -> None:
    remembered = tmp_path / "compile.json"
    plain, compiled = Timed(12), Timed(4, first=200)
    # Saved: about 8 ms a step. Spent: about 200 ms.
    assert pays(plain, compiled, CPU, 100, Timed.step, remembered, "a model")
    calls = plain.calls
    assert not pays(plain, compiled, CPU, 10, Timed.step, remembered, "a model")
    assert plain.calls == calls  # measured once
    assert len(read_json(remembered)) == 1
    assert not pays(Timed(1), Timed(2), CPU, 10**9, Timed.step, remembered, "one that gets slower")
    assert len(read_json(remembered)) == 2


class Second(World):
    """The second of two processes, which hears what the first has decided."""

    decided: Any = False

    def from_first(self, function: Any) -> Any:
        return self.decided

    def gather(self, value: Any) -> list[Any]:
        return [value, value]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("decided", [True, False])
def test_of_several_processes_the_first_alone_measures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, decided: bool
) -> None:
    from transformers import BertConfig

    class Sized(nn.Linear):
        config = BertConfig()

    Second.decided = decided
    monkeypatch.setattr(compiling, "here", lambda: Second(1, 2))
    monkeypatch.setattr(compiling, "_missing_tool", lambda _: None)
    model, remembered = Sized(2, 2), tmp_path / "compile.json"
    found = choose_compiled("auto", model, CUDA, hindrance=None, steps=10**6, try_out=never, remembered=remembered)
    assert (found is not model) is decided
    assert not remembered.exists()
