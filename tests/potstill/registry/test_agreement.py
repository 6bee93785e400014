from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from potstill.registry import tracking
from potstill.registry.agreement import disagreements
from potstill.registry.promotion import Registry
from potstill.registry.versions import PREVIOUS
from tests.registries import PROJECT, add_version


@pytest.fixture
def promoted(registry: Registry) -> Registry:
    """Versions 1 to 3, of which 1 and then 2 became champion."""
    for number, content in enumerate(("one", "two", "three"), start=1):
        add_version(registry, content, bento=f"potstill-x:{number}")
    registry.approve("1")
    registry.approve("2")
    return registry


def problems(registry: Registry) -> list[tuple[str, bool]]:
    return [(item.problem, item.harmless) for item in disagreements(registry)]


def test_a_registry_that_nobody_touched_agrees(promoted: Registry) -> None:
    assert problems(promoted) == []


@pytest.mark.slow
def test_each_disagreement_is_named(promoted: Registry) -> None:
    store = tracking.client(promoted.workspace)
    folder = Path(promoted.get("2").source.removeprefix("file://"))
    shutil.rmtree(folder / "bento")
    store.set_registered_model_alias(PROJECT, PREVIOUS, "3")
    store.create_model_version(PROJECT, folder.as_uri())
    assert problems(promoted) == [
        ("version 4 is in no line of the ledger: it was not made by a run, or its registration was undone", True),
        ("version 2 has no Bento in the registry, so it cannot be served or promoted", False),
        ("alias previous points at version 3, and the champion before was version 1", True),
    ]
    shutil.rmtree(folder)
    store.delete_model_version(PROJECT, "4")
    store.delete_model_version(PROJECT, "3")
    with closing(sqlite3.connect(promoted.workspace / "mlflow.db")) as database:
        database.execute("insert into registered_model_aliases (alias, version, name) values ('live', 9, ?)", [PROJECT])
        database.commit()
    assert problems(promoted) == [
        ("version 3 is registered in the ledger and gone from MLflow: it was deleted by hand", False),
        ("version 2 has no model in the registry, so it cannot be served or promoted", False),
        ("alias live points at version 9, which is gone from MLflow", False),
        ("alias previous points at no version, and the champion before was version 1", True),
    ]


def test_a_store_without_the_project_agrees(workspace: Path) -> None:
    assert problems(Registry(workspace, PROJECT)) == []
