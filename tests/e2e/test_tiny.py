"""Every stage, Prefect, MLflow, DVC and a served Bento, for real, on 200 generated rows and a tiny random model."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from potstill.artifacts import MANIFEST, read_json, sha256_file, verify
from potstill.compute.processes import free_port, start, stop
from tests.e2e.conftest import Finished
from tests.e2e.workspaces import champion, environment, processes_in, store

STAGES = [
    *("ingest", "prepare", "validate", "pretrain", "tokenize", "teacher", "signals"),
    *("general", "distill", "finetune", "control", "proof", "export", "quantize", "evaluate"),
]

# The session's first test pays for the shared run.


def contents(finished: Finished) -> list[list[Any]]:
    """What a run can add to: MLflow's runs, versions and aliases, and Bentos."""
    return [
        store(finished.folder, "select run_uuid from runs"),
        store(finished.folder, "select name, version from model_versions"),
        store(finished.folder, "select name, alias, version from registered_model_aliases"),
        [*(finished.home / "bentoml" / "bentos").glob("*/*/bento.yaml")],
    ]


def test_the_run_says_what_it_did_in_plain_lines(finished: Finished) -> None:
    said = finished.printed
    for stage in STAGES:
        assert f"{stage}: " in said
    for line in (
        "Teacher",
        "Student fp32",
        "Student INT8",
        "Pretrained",
        "gate      passed",
        "champion  version 1 of reviews",
    ):
        assert line in said
    for line in ("Bento     potstill-reviews:", "serve     potstill serve", "report    reports/report.html"):
        assert line in said
    assert "\x1b[" not in said  # not a terminal: no control characters
    assert "Warning" not in said


def test_every_out_has_a_manifest_that_verifies(finished: Finished) -> None:
    graph = yaml.safe_load((finished.folder / "dvc.yaml").read_text())["stages"]
    outs = [out for stage in graph.values() for out in stage["outs"] if isinstance(out, str)]
    assert len(outs) == 18
    for out in outs:
        verify(finished.folder / out) if (finished.folder / out / MANIFEST).exists() else pytest.fail(out)


def test_a_second_run_executes_nothing_and_adds_nothing(finished: Finished) -> None:
    before = contents(finished)
    said = finished.run("potstill", "run")
    assert [line for line in said.splitlines() if line.endswith(": current")] == [
        f"{stage}: current" for stage in STAGES
    ]
    assert contents(finished) == before
    assert [len(items) for items in before[1:]] == [1, 1, 1]


def test_mlflow_holds_one_parent_a_child_a_stage_and_the_evidence(finished: Finished) -> None:
    names = [name for (name,) in store(finished.folder, "select name from runs order by start_time")]
    assert sorted(map(str, names)) == sorted(["pipeline", *STAGES])
    assert {state for (state,) in store(finished.folder, "select distinct status from runs")} == {"FINISHED"}
    artifacts = {path.name for path in (finished.folder / "mlartifacts").rglob("*")}
    assert {"params.yaml", "dvc.lock", "gate.json", "model.onnx"} <= artifacts
    assert champion(finished.folder) == 1
    tags = dict(store(finished.folder, "select key, value from model_version_tags"))  # type: ignore[arg-type]
    assert tags["potstill.candidate"] == sha256_file(finished.folder / "data/serving" / MANIFEST)
    assert "dataset" in str(store(finished.folder, "select name from sqlite_master")).lower()
    assert store(finished.folder, "select count(*) from datasets")[0][0] > 0  # type: ignore[operator]


def test_dvc_agrees_that_nothing_is_left_to_do(finished: Finished) -> None:
    # The stage that writes code.yaml always runs.
    assert re.findall(r"^(\w+):$", finished.run("dvc", "status"), re.MULTILINE) == ["code"]
    assert re.findall(r"Running stage '(\w+)'", finished.run("dvc", "repro")) == ["code"]
    assert "accuracy" in finished.run("dvc", "metrics", "show")


def test_dvc_pushes_to_and_pulls_from_a_remote(finished: Finished, tmp_path: Path) -> None:
    finished.run("dvc", "remote", "add", "-q", "-f", "-d", "--local", "store", str(tmp_path / "remote"))
    assert "pushed" in finished.run("dvc", "push")
    clone = tmp_path / "clone"
    finished.run("git", "clone", "-q", str(finished.folder), str(clone))
    (clone / "dvc.lock").write_bytes((finished.folder / "dvc.lock").read_bytes())
    there = Finished(clone, finished.home, "")
    there.run("dvc", "remote", "add", "-q", "-d", "--local", "store", str(tmp_path / "remote"))
    there.run("dvc", "pull", "-q", "--allow-missing")
    assert verify(clone / "data" / "serving") == verify(finished.folder / "data" / "serving")


def test_the_promoted_bento_answers(finished: Finished) -> None:
    port = free_port()
    process = start(
        ["potstill", "serve", "--port", str(port)],
        cwd=finished.folder,
        environment=environment(finished.home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{base}/readyz", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < end, "the Bento did not become ready"
                time.sleep(0.2)
        body = json.dumps({"texts": ["a superb and witty movie", "a dull and stale plot"]}).encode()
        request = urllib.request.Request(f"{base}/v1/classify", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.loads(answer.read())
    finally:
        stop(process, grace_seconds=15)
    assert [item["label"] for item in found["predictions"]] == ["positive", "negative"]


def test_the_report_is_one_page_of_its_own(finished: Finished) -> None:
    page = (finished.folder / "reports" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_nothing_is_left_running(finished: Finished) -> None:
    assert processes_in(finished.folder) == []


def test_metrics_name_what_ships(finished: Finished) -> None:
    metrics = read_json(finished.folder / "reports" / "metrics.json")
    card = read_json(finished.folder / "data" / "serving" / "model.json")
    assert metrics["shipped"] == card["variant"]
    assert set(metrics["models"]) == {
        *("teacher", "teacher_int8", "student", "int8", "control", "initialised", "tfidf")
    }
