from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from flows.commands.trace_answer import show
from potstill.artifacts import MANIFEST, lineage, read_json, sha256_file, sha256_value, write_json, write_manifest
from potstill.errors import ChecksumError, PotstillError, RegistryError
from potstill.inference.window_store import candidate_location
from potstill.registry import tracking
from potstill.registry.lineage_trace import dvc_sum, lock_hashes
from potstill.registry.promotion import Registry
from potstill.registry.versions import DATA, LINEAGE, PARAMS, Version
from potstill.serving.launch import bento_path
from potstill.serving.release import write_seal
from tests.checkout import git
from tests.conftest import REPOSITORY
from tests.registries import PROJECT, add_judged_version, model_folder, new_store

pytestmark = pytest.mark.slow
TAG = "potstill-x:1"
OUTS = ("data/raw", "data/given", "data/teacher", "data/signals")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in git with data of all outs that a trace verifies."""
    folder = new_store(tmp_path / "workspace")
    shutil.copyfile(REPOSITORY / "params.yaml", folder / "params.yaml")
    for out in OUTS:
        (folder / out / "source").mkdir(parents=True)
        (folder / out / "source" / "rows.csv").write_text(f"rows of {out}\n", encoding="utf-8")
        write_manifest(folder / out)
    outs = [{"path": out, "md5": dvc_sum(folder / out), "hash": "md5"} for out in OUTS]
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"ingest": {"outs": outs}}}), encoding="utf-8")
    for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "params"]):
        git(folder, *command)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    return folder


def traced_version(workspace: Path) -> Version:
    """Register a version that knows all its hops, with its Bento in BentoML's store."""
    bento = bento_path(TAG)
    model = model_folder(workspace / "copy", "one")
    shutil.copytree(model / "data/serving", bento / "src/data/serving")
    write_json(bento / "src/service.json", {"git_commit": "c" * 40})
    (bento / "bento.yaml").write_text("name: potstill-x\nversion: '1'\n", encoding="utf-8")
    write_seal(bento)
    serving = bento / "src/data/serving"
    facts = lineage(sha256_file(serving / MANIFEST), read_json(serving / MANIFEST)["files"], "c" * 40)
    raw = sha256_file(workspace / "data/raw/source/rows.csv")
    tags = {
        PARAMS: json.dumps({"ingest": {"data": {"source": {"sums": {"rows.csv": raw}}}}}),
        DATA: json.dumps(lock_hashes(workspace / "dvc.lock")),
        LINEAGE: sha256_value(facts),
        **tracking.git_tags(workspace),
    }
    return add_judged_version(
        Registry(workspace, PROJECT), "one", range(100), tags=tags, files={"dvc.lock": workspace / "dvc.lock"}
    )


def hops(workspace: Path, what: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Trace something; returns the state of each hop."""
    capsys.readouterr()
    show(workspace, what, None, as_json=True)
    return {item["hop"]: item["state"] for item in json.loads(capsys.readouterr().out)}


def test_every_name_of_an_answer_leads_to_the_commit(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = traced_version(workspace)
    windows = Path(candidate_location(str(workspace / "watch"), version.candidate))
    windows.mkdir(parents=True)
    (windows / "1.answers.jsonl").write_text('{"request_id": "my request", "position": 0}\n', encoding="utf-8")
    write_json(windows / "1.counts.json", {"bento": TAG})
    names = ["1", "challenger", TAG, version.candidate, version.tags[LINEAGE], f"{version.candidate[:12]}-int8"]
    for what in [*names, "my request"]:
        states = hops(workspace, what, capsys)
        assert set(states.values()) == {"verified"}, what
        assert list(states) == [
            "answer", "Bento", "version", "MLflow run", "params", "evidence", "signals", "teacher", "given", "raw",
            "dvc.lock", "raw sums", "commit",
        ]  # fmt: skip
    show(workspace, "1", None, as_json=False)
    assert f"commit      verified  {version.tags[tracking.COMMIT]}, clean" in capsys.readouterr().out
    for what, reason in (("7", "no version '7'"), ("x:2", "no bento x:2"), ("f" * 64, "no lineage"), ("id", "id id")):
        with pytest.raises(RegistryError, match=reason):
            show(workspace, what, None, as_json=True)


def test_what_is_not_here_is_no_failure(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traced_version(workspace)
    shutil.rmtree(workspace / "data")
    shutil.rmtree(workspace / ".git")
    shutil.rmtree(bento_path(TAG))
    states = hops(workspace, "1", capsys)
    assert {name for name, state in states.items() if state == "not here"} == {
        "Bento", "signals", "teacher", "given", "raw", "raw sums", "commit",
    }  # fmt: skip


def damage_data(workspace: Path) -> None:
    (workspace / "data/signals/source/rows.csv").write_text("other", encoding="utf-8")


def damage_bento(workspace: Path) -> None:
    (bento_path(TAG) / "src/service.json").write_text("{}", encoding="utf-8")


def edit_params(workspace: Path) -> None:
    tracking.client(workspace).set_model_version_tag(PROJECT, "1", PARAMS, "{}")


def damage_model(workspace: Path) -> None:
    next((workspace / "mlartifacts").rglob("data/serving/model.onnx")).write_bytes(b"rot")


def damage_lock(workspace: Path) -> None:
    next((workspace / "mlartifacts").rglob("evidence/*/dvc.lock")).write_text("stages: {}\n", encoding="utf-8")


def delete_run(workspace: Path) -> None:
    tracking.client(workspace).delete_run(Registry(workspace, PROJECT).get("1").run_id)


@pytest.mark.parametrize(
    ("damage", "hop", "kind"),
    [
        (damage_data, "signals", ChecksumError),
        (damage_bento, "Bento", ChecksumError),
        (edit_params, "version", RegistryError),
        (damage_model, "version", ChecksumError),
        (damage_lock, "evidence", ChecksumError),
        (delete_run, "MLflow run", RegistryError),
    ],
)  # fmt: skip
def test_the_first_hop_that_fails_is_named(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    damage: object,
    hop: str,
    kind: type[PotstillError],
) -> None:
    traced_version(workspace)
    assert callable(damage)
    damage(workspace)
    with pytest.raises(kind, match=f"the trace of 1 breaks at the hop {hop}: "):
        show(workspace, "1", None, as_json=False)
    printed = capsys.readouterr().out.splitlines()
    assert next(line for line in printed if " FAILED " in line).startswith(hop)
