"""A scratch workspace for the data stages: the repository's dvc.yaml and params for a tiny source."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from potstill.artifacts import verify
from potstill.config.params_file import load_params
from potstill.config.yaml_file import read_params
from tasks.stage import Result, Stage, load_stage
from tests.conftest import REPOSITORY

STAGES = ("ingest", "prepare", "validate", "pretrain", "tokenize")
# What a stage needs of another that does next to nothing by default: run before it where a test does not name it.
BEFORE = {"tokenize": "pretrain", "distill": "general", "evaluate": "quantize"}
Workspace = Callable[..., Path]


def make_workspace(folder: Path, rows: Path, base: Path, **sections: Mapping[str, Any]) -> Path:
    """Write params.yaml for local rows and a local model; `sections` replace or add keys of sections."""
    params = read_params(REPOSITORY / "params.yaml")
    params["ingest"] = {
        "data": {"rows": {"kind": "file", "path": str(rows)}},
        "teacher": {"kind": "file", "path": str(base)},
    }
    params["prepare"] = {
        "tables": [{"source": "rows"}],
        "text": "text",
        "label": {"kind": "column", "column": "label"},
    }
    params["validate"] = {"min_rows": {"train": 50, "dev": 5, "test": 10}, "min_per_class": 1}
    params["tokenize"] = {"max_length": 16, "max_cut_share": None}
    # As in params/full.yaml, so that every stage has something to do.
    params["finetune"]["epochs"] = 1
    params["control"]["initialised"] = True
    for name, values in sections.items():
        params[name] = params.get(name, {}) | dict(values)
    (folder / "data").mkdir(parents=True)
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    (folder / "data" / "accepted.json").write_text("{}")
    (folder / "data" / "sources.json").write_text("{}")
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def run_stage(name: str) -> Result:
    """Run a stage's own function in the current folder, its deps and outs verified as the stage contract asks."""
    _run_before(name)
    stage = _load(name)
    for path in stage.deps.values():
        assert path.exists()
        if path.is_dir():
            verify(path)
    result: Result = import_module(f"tasks.{name}").run(stage)
    for path in stage.outs.values():
        assert path.exists()
        if path.is_dir():
            verify(path)
    return result


def run_stages(*names: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Result]:
    """Run stages in a workspace."""
    monkeypatch.chdir(folder)
    return [run_stage(name) for name in names]


def _run_before(name: str) -> None:
    before = BEFORE.get(name)
    if before is not None and not all(path.exists() for path in _load(before).outs.values()):
        run_stage(before)


def _load(name: str) -> Stage:
    return load_stage(name, load_params(Path("params.yaml")))
