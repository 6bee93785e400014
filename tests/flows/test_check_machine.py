from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flows.commands.check_machine import _home, findings
from flows.commands.check_stores import check_stores
from flows.commands.finding import Finding
from potstill.artifacts import write_text
from potstill.registry.promotion import Registry
from potstill.serving.launch import bento_path
from tests.conftest import REPOSITORY
from tests.flows.conftest import Toy
from tests.registries import PROJECT, add_version, new_store

pytestmark = pytest.mark.slow


def registry_finding(workspace: Path) -> Finding:
    return next(finding for finding in findings(workspace) if finding.name == "registry")


def test_doctor_reports_a_damaged_champion_and_a_cut_ledger(tmp_path: Path) -> None:
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    assert registry_finding(tmp_path).detail == "none yet"
    registry = Registry(new_store(tmp_path), PROJECT)
    version = add_version(registry, "one")
    assert registry_finding(tmp_path).detail == "2 lines of the ledger are intact, no champion yet"
    registry.approve("1")
    assert registry_finding(tmp_path).detail == "4 lines of the ledger are intact, champion version 1 is intact"
    model = Path(version.source.removeprefix("file://")) / "data/serving/model.onnx"
    content = model.read_bytes()
    model.write_bytes(b"rot")
    finding = registry_finding(tmp_path)
    assert (finding.ok, "model.onnx is altered" in finding.detail) == (False, True)
    model.write_bytes(content)
    assert registry_finding(tmp_path).ok
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("delete from experiment_tags where key like 'potstill.ledger.00000004.%'")
        database.commit()
    finding = registry_finding(tmp_path)
    assert (finding.ok, "line 4 of the ledger" in finding.detail) == (False, True)


def store_findings(workspace: Path) -> dict[str, list[Finding]]:
    """The findings of `check_stores` that are worth a look, by name."""
    by_name: dict[str, list[Finding]] = {}
    for finding in check_stores(workspace):
        by_name.setdefault(finding.name, [])
        if finding.noted or not finding.ok:
            by_name[finding.name].append(finding)
    return by_name


@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
def test_doctor_holds_the_stores_against_each_other(
    offline_toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentos"))
    workspace = offline_toy.folder
    registry = Registry(workspace, PROJECT)
    tag = f"potstill-{PROJECT}:1"
    add_version(registry, "one", bento=tag)
    registry.approve("1")
    assert store_findings(workspace) == {"versions": [], "bentos": [], "cache": [], "prefect": []}

    registry.fetch_bento(registry.get("1"), bento_path(tag))
    (bento_path(tag) / "bento.yaml").write_text("x", encoding="utf-8")
    bento_path(f"potstill-{PROJECT}:2").mkdir()
    stage = [sys.executable, "-m", "dvc", "repro", "-q", "prepare"]
    subprocess.run(stage, cwd=workspace, env=offline_toy.variables, check=True)
    shutil.rmtree(workspace / ".dvc/cache")
    moved = workspace.rename(tmp_path / "moved")
    named = {name: [finding.line for finding in found] for name, found in store_findings(moved).items()}
    assert named["versions"] == [
        f"note versions   MLflow's pages look for artifacts in {workspace}, from where the workspace was moved - "
        "the next run corrects that, or `potstill relocate`"
    ]
    note, altered = named["bentos"]
    assert note.startswith(
        "note bentos     1 in BentoML's store that no version of this registry names: " + f"potstill-{PROJECT}:2 -"
    )
    assert altered.startswith("FAIL bentos     ")
    assert altered.endswith(f"`potstill fetch {tag}` brings it from the registry again")
    assert "FAIL cache      data/prepared is in dvc.lock and not whole in DVC's cache" in "\n".join(named["cache"])


def test_doctor_notes_a_run_that_only_prefect_takes_for_going_on(tmp_path: Path, prefect_server: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Running

    from flows.engine.prefect_flow import potstill
    from flows.engine.prefect_server import workspace_tag

    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        with get_client(sync_client=True) as client:
            client.create_flow_run(potstill, name="one", tags=[workspace_tag(tmp_path)], state=Running())
        (finding,) = store_findings(tmp_path)["prefect"]
    assert "the run one is Running or Lost in Prefect, and no process holds this workspace" in finding.line
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        (finding,) = store_findings(tmp_path)["prefect"]
    assert (finding.ok, "http://127.0.0.1:1/api does not answer" in finding.line) == (False, True)


# The checks of `potstill doctor` that need DVC and MLflow, and a command that has to write.
LOOK = """
from pathlib import Path
from flows.cli import main
from flows.commands.check_stores import check_stores
print(*(finding.line for finding in check_stores(Path.cwd())), sep="\\n")
main()
"""


def test_a_workspace_that_is_read_only_is_looked_at_and_left_alone(offline_toy: Toy) -> None:
    folder = offline_toy.folder
    write_text(folder / "dvc.lock", "schema: '2.0'\nstages: {}\n")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    mount = f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} && cd {folder}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no process may mount a file system here")
    command = f'{mount} && exec {sys.executable} -c "$1" status'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", LOOK], env=offline_toy.variables, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    agreed = [f"ok   {name:<10} nothing disagrees" for name in ("versions", "bentos", "cache", "prefect")]
    assert done.stdout.splitlines() == agreed, done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (60, 1), done.stderr
    assert "cannot be used (Read-only file system); give this user the right to it, or work in a copy" in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_doctor_names_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    for home, ok in ((tmp_path / "prefect", True), (tmp_path / "file" / "prefect", False)):
        monkeypatch.setenv("PREFECT_HOME", str(home))
        finding = _home(tmp_path)
        assert (finding.ok, "set PREFECT_HOME to a folder" in finding.line) == (ok, not ok)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file" / "bentoml"))
    assert "set BENTOML_HOME to a folder" in _home(tmp_path).line
