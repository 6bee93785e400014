"""dvc.yaml is the only stage graph: the flow takes its order from it, and it is short enough to read."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.engine.dvc_graph import Graph
from potstill.config.params import Params
from potstill.config.params_file import load_params
from tasks.stage import load_stage

REPOSITORY = Path(__file__).resolve().parents[2]
GRAPH: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = [name for name in GRAPH if name != "code"]


def outs(stage: str) -> set[str]:
    listed = [item for kind in ("outs", "metrics", "plots") for item in GRAPH[stage].get(kind, [])]
    return {item if isinstance(item, str) else next(iter(item)) for item in listed}


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own, in pygtrie
def test_the_flow_runs_every_stage_after_those_it_depends_on() -> None:
    order = Graph(REPOSITORY, load_params(REPOSITORY / "params.yaml")).order
    assert sorted(order) == sorted(STAGES)
    for place, stage in enumerate(order):
        needed = {other for other in STAGES if outs(other) & set(GRAPH[stage].get("deps", []))}
        assert needed <= set(order[:place]), stage


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_the_module_of_its_name(stage: str) -> None:
    assert GRAPH[stage]["cmd"] == f"exec python -m tasks.{stage}"
    assert {"code.yaml": [stage]} in GRAPH[stage]["params"]
    assert (REPOSITORY / "tasks" / f"{stage}.py").exists()


def test_a_person_can_read_it() -> None:
    lines = (REPOSITORY / "dvc.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    for stage in GRAPH:
        assert lines[lines.index(f"  {stage}:") - 1].startswith("  # "), stage


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_receives_its_own_params_and_data_only(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    params: Params = load_params(Path("params.yaml"))
    loaded = load_stage(stage, params)
    assert {"project", stage} <= set(loaded.sections)
    assert all(path.parts[0] in {"data", "reports"} for path in [*loaded.deps.values(), *loaded.outs.values()])
    assert {str(path) for path in loaded.outs.values()} == outs(stage)


def test_packages_hold_no_code_that_dvc_would_not_see() -> None:
    """`__init__.py` is no part of a stage's code."""
    for package in ("potstill", "tasks"):
        for path in (REPOSITORY / package).rglob("__init__.py"):
            _, *code = ast.parse(path.read_text(encoding="utf-8")).body
            assert [ast.unparse(line).partition(" ")[0] for line in code] in ([], ["__version__"]), path
