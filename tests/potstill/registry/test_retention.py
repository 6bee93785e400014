from __future__ import annotations

from pathlib import Path

import pytest

from potstill.registry import tracking
from potstill.registry.agreement import disagreements
from potstill.registry.promotion import Registry
from potstill.registry.retention import divide
from potstill.registry.steps import hold_registry
from potstill.registry.versions import MODEL_ID
from tests.registries import PROJECT, add_version


@pytest.mark.slow
def test_what_persons_decided_and_lines_name_is_kept(registry: Registry) -> None:
    for number, content in enumerate(("one", "two", "three", "four", "five", "six"), start=1):
        add_version(registry, content, bento=f"potstill-x:{number}")
    registry.veto("1", "wrong")
    registry.approve("2")
    registry.approve("3")
    registry.roll_back("2", "worse")
    store = tracking.client(registry.workspace)
    store.set_registered_model_alias(PROJECT, "canary", "4")
    retention = divide(registry, keep=1, days=-1)
    assert retention.kept == {
        "6": "challenger", "4": "canary", "3": "rolled back", "2": "champion", "1": "vetoed",
    }  # fmt: skip
    assert retention.removable == ["5"]
    assert retention.bentos == {"potstill-x:5"}
    young = divide(registry, keep=1, days=1)
    assert (young.removable, young.bentos) == ([], set())
    assert young.kept["5"].startswith("line 10 of the ledger")

    # Who looks before an alias is moved does not remove what has it then.
    store.set_registered_model_alias(PROJECT, "canary", "5")
    assert registry.remove(retention.removable, "gc") == []
    store.set_registered_model_alias(PROJECT, "canary", "4")
    store.delete_model_version(PROJECT, "5")
    assert [item.problem for item in disagreements(registry)] == [
        "version 5 is registered in the ledger and gone from MLflow: it was deleted by hand"
    ]
    assert registry.remove(retention.removable, "gc") == ["5"]
    assert list(disagreements(registry)) == []


def test_a_removal_that_was_cut_off_is_finished(registry: Registry) -> None:
    version = add_version(registry, "one")
    files = Path(version.source.removeprefix("file://"))
    registry.approve(add_version(registry, "two").version)
    with hold_registry(registry, registry.ledger, "test") as steps:
        steps.announce("remove", version="1", model=version.tags[MODEL_ID], reason="gc")
    tracking.client(registry.workspace).delete_model_version(PROJECT, "1")
    assert all(item.harmless for item in disagreements(registry))
    assert registry.reconcile() == ["remove was interrupted: finished, version 1 is removed"]
    assert not files.exists()
    assert list(disagreements(registry)) == []
    # The same bytes can be registered again, as another version.
    assert add_version(registry, "one").version == "3"
