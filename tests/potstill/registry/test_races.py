"""Races of promoters in two clones of a project, on real stores; `python -m tests.racing` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from potstill.errors import ApprovalPendingError
from potstill.registry.promotion import Registry
from tests.postgres import need_postgres, postgres
from tests.racing import check_history, mlflow_server, race
from tests.registries import new_store

# The processes import MLflow, which takes minutes on a busy machine.
pytestmark = pytest.mark.slow


def check_race(
    uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch, project: str, *, promoters: int = 4, rounds: int = 2
) -> Registry:
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # `race` sets it too, so that it is unset afterwards
    results = race(uri, folder, promoters=promoters, rounds=rounds, project=project)
    assert [result.winners for result in results] == [1] * rounds
    for result in results:
        for sentence in filter(None, result.sentences):
            assert sentence.startswith((f"RegistryError: the champion of {project} is version", "BusyError: "))
    for clone in ("one", "two"):
        check_history(folder / clone, rounds, project)
    return Registry(folder / "two", project)


def check_rollback(registry: Registry) -> None:
    """Check that a rollback in one clone holds in the other, however often its schedule fires."""
    champion = registry.champion()
    assert champion is not None
    restored = registry.roll_back(None, "it shouts")
    clone = Registry(registry.workspace.parent / "one", registry.name)
    for _ in range(2):
        assert clone.held_back(champion.candidate) is not None
        with pytest.raises(ApprovalPendingError, match="was rolled back"):
            clone.promote(champion.version, expected=restored.version)
    assert clone.champion() == restored


def test_one_promoter_wins_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_store(tmp_path)
    check_rollback(check_race(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, monkeypatch, "sqlite"))


def test_one_promoter_wins_on_postgresql_directly_and_through_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_postgres()
    with postgres() as uri:
        check_rollback(check_race(uri, tmp_path / "direct", monkeypatch, "direct"))
        with mlflow_server(uri, tmp_path) as address:
            served = check_race(address, tmp_path / "served", monkeypatch, "served", promoters=8)
            check_rollback(served)
