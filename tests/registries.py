"""MLflow stores for tests: making one costs seconds of migrations, copying one does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.artifacts import write_json, write_manifest
from potstill.compute.processes import hold
from potstill.config.params import Params
from potstill.evaluation.gate_checks import Check
from potstill.evaluation.gates import Verdict
from potstill.paths import TEST_PROFILE
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.registry.version_artifacts import SERVING, pack_bento, pack_evidence
from potstill.registry.versions import BENTO, CANDIDATE, EVIDENCE, GATE, Version, candidate_sum
from potstill.serving.launch import bento_path
from potstill.serving.release import write_seal
from tasks.package import Packaged
from tasks.register import register
from tests.conftest import CACHE, generate_rows
from tests.potstill.serving.folders import write_profile, write_serving

PROJECT = "movie-reviews"
BENTO_TAG = "potstill-movie-reviews:abc"
PASSED = json.dumps({"passed": True, "sentence": "passed: all 1 gates", "checks": [{"passed": True}]})
REFUSED = json.dumps({"passed": False, "sentence": "refused: x", "checks": [{"passed": False}]})


def new_store(workspace: Path) -> Path:
    """Give a workspace an empty MLflow store and return the workspace."""
    kept = CACHE / f"mlflow-{metadata.version('mlflow')}"
    with hold(CACHE / "lock" / "mlflow.lock", what="making a store for the tests", wait_seconds=110):
        if not (kept / "whole").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            tracking.client(kept).search_experiments()
            (kept / "whole").touch()
    workspace.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kept / "mlflow.db", workspace / "mlflow.db")
    return workspace


def model_folder(folder: Path, content: str) -> Path:
    """What stands for MLflow's model format: a serving folder where a version has it."""
    serving = folder / SERVING
    serving.mkdir(parents=True)
    write_json(serving / "model.json", {"content": content})
    (serving / "model.onnx").write_bytes(content.encode() * 100)
    write_manifest(serving)
    return folder


def write_bento(folder: Path, serving: Path) -> Path:
    """What stands for a sealed Bento of a serving folder, where no test serves it."""
    shutil.copytree(serving, folder / "src/data/serving")
    (folder / "bento.yaml").write_text(f"name: toy\nversion: {folder.name}\n", encoding="utf-8")
    write_manifest(folder)
    return folder


def register_bento(
    registry: Registry,
    bento: Path,
    model: Path,
    tag: str,
    *,
    evidence: str = PASSED,
    tags: Mapping[str, str] | None = None,
    packed: Path | None = None,
) -> Version:
    """Register a model folder with its sealed Bento, from a run of its own; `packed` is what it was judged by."""
    experiment = tracking.experiment_id(registry.workspace, registry.name)
    run = tracking.start_parent(registry.workspace, registry.name, {}, [])
    extras = model.with_name(f"{model.name}-extras")
    version = registry.register(
        candidate=candidate_sum(model / SERVING), model=model, extras=extras, seal=pack_bento(bento, extras),
        experiment=experiment, run_id=run, tags={GATE: evidence, BENTO: tag, **(tags or {})}, description="",
        evidence=packed,
    )  # fmt: skip
    tracking.end_parent(registry.workspace, run, "FINISHED", metrics={}, tags={})
    shutil.rmtree(extras)
    return version


def write_champion(base: Path, home: Path) -> Path:
    """A workspace whose champion is a tiny student that may abstain, and the Bento store next to it."""
    workspace = new_store(home / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home / "bentoml"))
        bento = bento_path(BENTO_TAG)
    serving = write_serving(base, bento / "src" / SERVING)
    write_profile(serving, [text for text, _ in generate_rows(120)], bento / "src" / TEST_PROFILE)
    write_json(bento / "src/service.json", {"name": "n", "serve": {}, "abstain_below": 0.75})
    name, version = BENTO_TAG.split(":")
    (bento / "bento.yaml").write_text(f"name: {name}\nversion: {version}\n", encoding="utf-8")
    write_seal(bento)
    shutil.copytree(serving, workspace / "model" / SERVING)
    registry = Registry(workspace, PROJECT)
    registered = register_bento(registry, bento, workspace / "model", BENTO_TAG)
    registry.promote(registered.version, expected=None)
    return home


def add_version(
    registry: Registry,
    content: str,
    *,
    evidence: str = PASSED,
    bento: str = "potstill-x:1",
    tags: Mapping[str, str] | None = None,
    packed: Path | None = None,
) -> Version:
    """Register a candidate with these bytes."""
    model = model_folder(registry.workspace / "models" / content, content)
    folder = write_bento(registry.workspace / "models/bentos" / bento.partition(":")[2], model / SERVING)
    version = register_bento(registry, folder, model, bento, evidence=evidence, tags=tags, packed=packed)
    shutil.rmtree(registry.workspace / "models")
    assert version.tags[CANDIDATE] == version.candidate
    return version


def write_evidence(
    folder: Path,
    ids: list[str],
    gold: list[int],
    classes: list[int],
    *,
    card: dict[str, Any] | None = None,
    **numbers: float,
) -> Path:
    """Write what a version was judged by: its answers, its metrics and its card."""
    folder.mkdir(parents=True)
    write_json(folder / "model.json", {"task": "classification", "labels": ["negative", "positive"], **(card or {})})
    accuracy = float(np.mean(np.array(gold) == classes))
    model = {"accuracy": accuracy, "ece": 0.02, "megabytes": 17.5, "p50_ms": 4.0, "p99_ms": 6.0, **numbers}
    write_json(folder / "metrics.json", {"shipped": "int8", "models": {"int8": model}, "rows": len(ids)})
    logits = [[float(answer == 0), float(answer == 1)] for answer in classes]
    pq.write_table(pa.table({"id": ids, "label": gold, "int8": logits}), folder / "predictions.parquet")
    return folder


def answers(rows: int, wrong: range) -> tuple[list[str], list[int], list[int]]:
    """Ids, gold classes by turns, and predicted classes, of which some are wrong."""
    gold = [row % 2 for row in range(rows)]
    classes = [1 - label if row in wrong else label for row, label in enumerate(gold)]
    return [f"row {row}" for row in range(rows)], gold, classes


def add_judged_version(registry: Registry, content: str, wrong: range, **more: Any) -> Version:
    """Register a candidate with the evidence of 1,000 answers, of which some are wrong."""
    folder = registry.workspace / "judged" / content
    files = write_evidence(folder / "files", *answers(1000, wrong))
    (files / "report.html").write_text(f"<title>{content}</title>", encoding="utf-8")
    packed = folder / "packed"
    seal = pack_evidence(
        {path.name: path for path in files.iterdir()} | more.pop("files", {}), f"# {content}\n", packed
    )
    tags = {EVIDENCE: seal, **more.pop("tags", {})}
    return add_version(registry, content, tags=tags, packed=packed, **more)


def register_candidate(params: Params, workspace: Path) -> Version:
    """Register the candidate of a toy workspace as one that passed its gates."""
    verdict = Verdict((Check("scored", 0.9, None, True, "the candidate was scored"),))
    run = tracking.start_parent(workspace, params.project.name, {}, [])
    return register(params, workspace, verdict, Packaged(BENTO_TAG, bento_path(BENTO_TAG), "c"), run, None)
