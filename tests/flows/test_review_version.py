from __future__ import annotations

import json
import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

from flows.commands import decide_versions
from flows.commands.review_version import collect, show
from potstill.errors import ChecksumError, RegistryError
from potstill.registry.promotion import Registry
from potstill.registry.versions import EVIDENCE
from tests.conftest import REPOSITORY
from tests.registries import PROJECT, add_judged_version, add_version, new_store

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = new_store(tmp_path / "workspace")
    shutil.copyfile(REPOSITORY / "params.yaml", folder / "params.yaml")
    return folder


def test_a_review_says_what_got_worse_and_where_the_report_is(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(workspace, PROJECT)
    add_judged_version(registry, "one", range(100))
    first = collect(workspace, None)
    assert (first["version"], first["aliases"], first["rival"]) == ("1", ["challenger"], None)
    assert "no champion yet" in first["basis"]
    registry.approve("1", "the first")
    add_judged_version(registry, "two", range(0, 300, 2))
    facts = collect(workspace, None)
    assert (facts["version"], facts["passed"], facts["rival"]["version"]) == ("2", True, "1")
    assert facts["worse"][0].startswith("accuracy 85.0%, the champion's 90.0%: -5.0 points (")
    assert any(sentence.startswith("recall of negative") for sentence in facts["worse"])
    assert Path(facts["report"]).read_text() == "<title>two</title>"
    assert json.loads(json.dumps(facts)) == facts
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    show(workspace, "2", as_json=False, open_report=True)
    printed = capsys.readouterr().out
    assert "verdict   passed: all 1 gates" in printed
    assert "worse     accuracy 85.0%" in printed
    assert "potstill promote 2 --reason TEXT --expect-champion 1" in printed
    assert opened == [Path(facts["report"]).resolve().as_uri()]
    # The champion is compared with the one before; who made it champion is told.
    registry.approve("2", "we need its speed")
    champion = collect(workspace, "champion")
    assert champion["rival"]["alias"] == "previous"
    assert [line["reason"] for line in champion["decisions"] if line["action"] == "promote"] == ["we need its speed"]


def test_a_review_answers_without_mlflow(workspace: Path) -> None:
    registry = Registry(workspace, PROJECT)
    add_judged_version(registry, "one", range(100))
    registry.approve("1")
    add_judged_version(registry, "two", range(100))
    code = (
        "import sys; from pathlib import Path; from flows.commands.review_version import collect; "
        "collect(Path.cwd(), None); print(*(name in sys.modules for name in ('mlflow', 'torch', 'pandas')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace, env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "False False False\n", done.stderr


def test_what_cannot_be_reviewed_says_why(workspace: Path) -> None:
    with pytest.raises(RegistryError, match="no champion yet"):
        collect(workspace, None)
    registry = Registry(workspace, PROJECT)
    add_version(registry, "one")
    with pytest.raises(RegistryError, match="no version '7'"):
        collect(workspace, "7")
    assert collect(workspace, "1")["report"] is None
    registry.approve("1")
    add_judged_version(registry, "two", range(10))
    assert "kept no evidence" in collect(workspace, "2")["basis"]
    registry.approve("2")
    version = add_judged_version(registry, "three", range(10))
    stored = Path(registry.get("2").source.removeprefix("file://")) / "evidence"
    next(stored.glob("*/metrics.json")).write_text("{}", encoding="utf-8")
    shutil.rmtree(workspace / ".work")
    assert "the champion cannot be compared" in collect(workspace, "3")["basis"]
    own = Path(version.source.removeprefix("file://")) / "evidence" / version.tags[EVIDENCE][:12]
    (own / "report.html").unlink()
    shutil.rmtree(workspace / ".work", ignore_errors=True)
    with pytest.raises(ChecksumError, match=r"report\.html is missing"):
        collect(workspace, "3")


def test_decisions_as_json_name_who_decided_and_why(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(workspace, PROJECT)
    for content in ("one", "two"):
        add_version(registry, content)
    decide_versions.approve(workspace, "1", "the first", "none", as_json=True)
    promoted = json.loads(capsys.readouterr().out)
    assert promoted["champion"]["version"] == "1"
    assert (promoted["decision"]["action"], promoted["decision"]["reason"]) == ("promote", "the first")
    assert "@" in promoted["decision"]["by"]
    with pytest.raises(RegistryError, match="is version 1 now, not 7"):
        decide_versions.approve(workspace, "2", "better", "7", as_json=True)
    decide_versions.approve(workspace, "2", "better", "1", as_json=False)
    assert "version 2 of movie-reviews is champion" in capsys.readouterr().out
    decide_versions.roll_back(workspace, None, "slower", as_json=True)
    back = json.loads(capsys.readouterr().out)
    assert (back["champion"]["version"], back["decision"]["action"], back["decision"]["reason"]) == (
        "1", "rollback", "slower",
    )  # fmt: skip
    decide_versions.veto(workspace, "1", "wrong", as_json=True)
    vetoed = json.loads(capsys.readouterr().out)
    assert (vetoed["champion"], vetoed["decision"]["action"]) == (None, "veto")
    decide_versions.history(workspace, 2, as_json=True)
    lines = json.loads(capsys.readouterr().out)
    assert [(line["action"], line["reason"]) for line in lines] == [("veto", "wrong")] * 2


def test_a_damaged_champion_is_told_to_whoever_replaces_it(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(workspace, PROJECT)
    first = add_version(registry, "one")
    add_version(registry, "two")
    registry.approve("1")
    (Path(first.source.removeprefix("file://")) / "data/serving/model.onnx").write_bytes(b"rot")
    decide_versions.approve(workspace, "2", "the champion is damaged", None, as_json=True)
    printed = capsys.readouterr()
    assert "the champion before cannot be restored" in printed.err
    assert "model.onnx is altered" in json.loads(printed.out)["decision"]["facts"]["champion_problem"]
