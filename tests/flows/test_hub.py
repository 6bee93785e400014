"""A teacher and data of the hub as a user has them: the command line, real processes, everything else offline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from potstill.artifacts import sha256_file, verify
from tests.conftest import generate_rows, write_csv
from tests.flows.conftest import Toy
from tests.potstill.data.hub import REVISION, LocalHub, Manners

pytestmark = pytest.mark.slow


def change(params: Path, ingest: dict[str, object], prepare: dict[str, object]) -> None:
    """Change two sections of params.yaml."""
    document = yaml.safe_load(params.read_text(encoding="utf-8"))
    document["ingest"].update(ingest)
    document["prepare"].update(prepare)
    params.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def test_init_looks_at_a_hub_teacher_and_run_fetches_it(
    tiny_base: Path, variables: dict[str, str], prefect_server: str, tmp_path: Path
) -> None:
    rows = write_csv(tmp_path / "rows.csv", generate_rows(200))
    model = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
    manners = Manners(token="secret")
    repositories = {("models", "me/teacher"): model, ("datasets", "me/rows"): {"rows.csv": rows.read_bytes()}}
    with LocalHub(repositories, manners) as hub:
        ours = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "PREFECT_API_URL": prefect_server}
        init = [sys.executable, "-m", "flows.cli", "init", "work", "--data", str(rows), "--text", "text"]
        init += ["--label", "label", "--teacher", f"me/teacher@{REVISION}"]
        refused = subprocess.run(init, cwd=tmp_path, env=variables | ours, capture_output=True, text=True, check=False)
        assert (refused.returncode, (tmp_path / "work").exists()) == (9, False), refused.stderr
        assert "HF_TOKEN is not the token of someone who may read it" in refused.stderr
        ours["HF_TOKEN"] = "secret"
        subprocess.run(init, cwd=tmp_path, env=variables | ours, check=True)
        work = tmp_path / "work"
        params = yaml.safe_load((work / "params.yaml").read_text(encoding="utf-8"))
        assert params["distill"]["layers"] == [0, 2]  # of the four that its config.json names
        # The labels are other ones, so that the run ends after ingest.
        source = {"data": {"kind": "hub", "id": "me/rows", "revision": REVISION}}
        change(work / "params.yaml", {"data": source}, {"labels": ["yes", "no"]})
        ended = Toy(work, variables | ours).run("run")
        assert ended.code == 22, ended.err
        assert "ingest: " in ended.out
    given = verify(work / "data/given")
    assert (given["id"], given["revision"]) == ("me/teacher", REVISION)
    assert sha256_file(work / "data/given/model.safetensors") == sha256_file(tiny_base / "model.safetensors")
    assert (work / "data/raw/data/rows.csv").read_bytes() == rows.read_bytes()
