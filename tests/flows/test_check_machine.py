from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.commands.check_machine import Finding, findings
from potstill.registry.promotion import Registry
from tests.conftest import REPOSITORY
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
