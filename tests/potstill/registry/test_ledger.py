from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from potstill.errors import RegistryError
from potstill.registry import tracking
from potstill.registry.history import History, read_history
from potstill.registry.lease import Lease, hold_lease
from potstill.registry.ledger import START, Ledger, Line, clean_reason
from tests.registries import PROJECT

PROMOTE: dict[str, Any] = {"expected": None, "person": False}


def write(workspace: Path, *lines: dict[str, Any]) -> list[Line]:
    ledger = Ledger(workspace, PROJECT)
    known = ledger.lines()
    with hold_lease(workspace, PROJECT, "a test") as lease:
        for line in lines:
            ledger.append(known, lease, {"state": "done", "action": "freeze", "facts": {"reason": "x"}, **line})
    return ledger.lines()


def ledger_tags(workspace: Path) -> tuple[str, dict[str, str]]:
    experiment = tracking.client(workspace).get_experiment_by_name(f"{PROJECT}.ledger")
    assert experiment is not None
    return experiment.experiment_id, {key: value for key, value in experiment.tags.items() if "ledger" in key}


def test_lines_are_chained_and_name_their_author(workspace: Path) -> None:
    lines = write(workspace, {}, {"facts": {"reason": "Gr\u00fc\u00dfe \u4f60\u597d"}})
    assert [line.number for line in lines] == [1, 2]
    assert [line.previous for line in lines] == [START, lines[0].digest]
    assert "@" in lines[0].by
    assert lines[1].facts["reason"] == "Gr\u00fc\u00dfe \u4f60\u597d"
    note = tracking.client(workspace).get_experiment(ledger_tags(workspace)[0]).tags["mlflow.note.content"]
    assert "freeze done" in note


def test_an_edited_line_is_detected(workspace: Path) -> None:
    write(workspace, {}, {}, {})
    experiment, tags = ledger_tags(workspace)
    key = next(key for key in tags if ".00000002." in key)
    edited = json.dumps({**json.loads(tags[key]), "action": "unfreeze"}, sort_keys=True)
    tracking.client(workspace).set_experiment_tag(experiment, key, edited)
    with pytest.raises(RegistryError, match="line 2 of the ledger was edited"):
        Ledger(workspace, PROJECT).lines()


def test_a_removed_line_is_detected(workspace: Path) -> None:
    lines = write(workspace, {}, {}, {})
    with pytest.raises(RegistryError, match=r"line 2 of the ledger .* was taken away"):
        Ledger(workspace, PROJECT)._chain([lines[0], lines[2]])


def test_a_line_that_is_taken_from_the_end_is_detected(workspace: Path) -> None:
    lines = write(workspace, {}, {}, {})
    experiment, tags = ledger_tags(workspace)
    delete_tag(workspace, experiment, next(key for key in tags if ".00000003." in key))
    with pytest.raises(RegistryError, match=r"line 3 of the ledger .* was taken away"):
        Ledger(workspace, PROJECT).lines()
    # Lines 2 and 3 together, and a ledger from before the newest line was named.
    with pytest.raises(RegistryError, match="line 3"):
        Ledger(workspace, PROJECT)._chain(lines[:1], f"3 {lines[2].digest}")
    assert Ledger(workspace, PROJECT)._chain(lines[:1]) == lines[:1]
    # A writer that was killed before it named its line.
    assert Ledger(workspace, PROJECT)._chain(lines, f"2 {lines[1].digest}") == lines


def delete_tag(workspace: Path, experiment: str, key: str) -> None:
    """Take a tag away in the database, as nothing in MLflow's own interface can."""
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database:
        database.execute("delete from experiment_tags where experiment_id = ? and key = ?", [experiment, key])
        database.commit()


def test_a_line_as_plain_values_names_who_decided_and_why(workspace: Path) -> None:
    (line,) = write(workspace, {"action": "veto", "facts": {"version": "3", "reason": "it shouts", "restored": None}})
    values = line.to_json()
    assert (values["version"], values["reason"], values["by"]) == ("3", "it shouts", line.by)
    assert values["facts"] == {"restored": None}
    assert json.loads(json.dumps(values)) == values
    assert replace(line, facts={"candidate": "a" * 64}).sentence.endswith("veto done: candidate aaaaaaaaaaaa")


def test_the_line_of_a_holder_that_lost_its_lease_does_not_count(workspace: Path) -> None:
    ledger = Ledger(workspace, PROJECT)
    write(workspace, {})
    with hold_lease(workspace, PROJECT, "the first") as silent:
        stale_lines = ledger.lines()
    write(workspace, {"facts": {"reason": "the second"}})
    ledger.append(
        stale_lines, LostLease(silent.number), {"state": "done", "action": "freeze", "facts": {"reason": "late"}}
    )
    assert [line.facts["reason"] for line in ledger.lines()] == ["x", "the second"]


class LostLease(Lease):
    """A lease that has not noticed that it was lost."""

    def __init__(self, number: int) -> None:
        self.number = number

    def check(self) -> None:
        """Detect nothing."""


def line(number: int, action: str, state: str = "done", intent: int | None = None, **facts: Any) -> Line:
    return Line(number, "", 1, intent or number, state, action, "2026-01-01T00:00:00Z", "me@here", facts, str(number))


def history(*lines: Line) -> History:
    registered = [line(number, "register", version=str(number), candidate=f"c{number}") for number in range(1, 5)]
    return read_history([*registered, *lines])


def test_an_intent_is_open_until_it_is_closed() -> None:
    announced = line(9, "promote", "open", version="3", **PROMOTE)
    assert list(history(announced).open.values()) == [announced]
    after = history(announced, line(10, "promote", intent=9, version="3", **PROMOTE))
    assert (after.open, after.champion) == ({}, "3")
    undone = history(announced, line(10, "promote", "undone", intent=9, version="3", **PROMOTE))
    assert (undone.open, undone.champion) == ({}, None)


def test_a_veto_of_the_champion_restores_an_older_one() -> None:
    moves = [line(9, "promote", version="1", **PROMOTE), line(10, "promote", version="2", expected="1", person=False)]
    older_vetoed = history(*moves, line(11, "veto", version="1", restored=None, was_champion=False, reason="x"))
    assert (older_vetoed.champion, older_vetoed.champions) == ("2", ["2"])
    champion_vetoed = history(*moves, line(11, "veto", version="2", restored="1", was_champion=True, reason="x"))
    assert (champion_vetoed.champion, champion_vetoed.champions, list(champion_vetoed.vetoed)) == ("1", ["1"], ["2"])


def test_the_champion_of_a_store_without_a_ledger_can_be_rolled_back() -> None:
    after = history(line(9, "rollback", version="1", expected="2", reason="x"))
    assert (after.champion, after.champions, list(after.rolled_back)) == ("1", ["1"], ["c2"])


def test_a_line_of_a_newer_potstill_is_refused() -> None:
    with pytest.raises(RegistryError, match="too old"):
        history(line(9, "transmute"))


def test_a_reason_is_one_short_line() -> None:
    assert clean_reason("a\n b\0\udcffc") == "a b ?c"
    assert len(clean_reason("\u4f60" * 9000)) == 1000


def test_a_thousand_lines_are_read_in_well_under_a_second(workspace: Path) -> None:
    from mlflow.entities import ExperimentTag
    from mlflow.store.tracking.dbmodels.models import SqlExperimentTag

    write(workspace, {})
    experiment, _ = ledger_tags(workspace)
    store = tracking.client(workspace)._client._tracking_client.store  # type: ignore[attr-defined]
    recorder = TagRecorder()
    known = Ledger(workspace, PROJECT).lines()
    ledger = Ledger(workspace, PROJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("potstill.registry.ledger.client", lambda _: recorder)
        patch.setattr("potstill.registry.ledger.experiment_id", lambda *_: experiment)
        for _ in range(999):
            facts = {"version": "17", "candidate": "c" * 64, "gate": "g" * 64, "seal": "s" * 64, "settled": "t" * 64}
            ledger.append(known, LostLease(1), {"state": "open", "action": "register", "facts": facts})
    tags = {tag.key: tag.value for tag in recorder.tags}
    head = tags.pop("potstill.ledger.head")
    tracking.client(workspace).set_experiment_tag(experiment, "potstill.ledger.head", head)
    with store.ManagedSessionMaker(read_only=False) as session:
        session.add_all([SqlExperimentTag(experiment_id=int(experiment), key=key, value=tags[key]) for key in tags])
    assert ExperimentTag
    begin = time.process_time()
    assert len(ledger.lines()) == 1000
    assert time.process_time() - begin < 0.6


class TagRecorder:
    """A client that records tags: a thousand single writes to MLflow would take minutes."""

    def __init__(self) -> None:
        self.tags: list[Any] = []

    def set_experiment_tag(self, _: str, key: str, value: str) -> None:
        from mlflow.entities import ExperimentTag

        self.tags.append(ExperimentTag(key, value))
