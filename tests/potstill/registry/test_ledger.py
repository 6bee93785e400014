from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from potstill.errors import RegistryError
from potstill.registry.ledger import LEDGER, Ledger


def test_an_intent_is_pending_until_it_is_closed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    intent = ledger.open("promote", version="3", expected=None)
    assert Ledger(tmp_path).pending() == [intent]
    ledger.close(intent, "done", version="3")
    assert ledger.pending() == []
    assert ledger.last_champion() == "3"


def test_lines_are_only_ever_added(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    intent = ledger.open("promote", version="1", expected=None)
    before = (tmp_path / LEDGER).read_bytes()
    ledger.close(intent, "undone", version="1")
    assert (tmp_path / LEDGER).read_bytes().startswith(before)
    assert ledger.last_champion() is None


def test_the_torn_line_of_a_crash_is_no_line_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    first = ledger.open("promote", version="1", expected=None)
    with (tmp_path / LEDGER).open("ab") as handle:
        handle.write(b'{"intent": "x", "sta')
    assert ledger.pending() == [first]
    second = ledger.open("register", candidate="c")
    assert ledger.pending() == [first, second]


def test_an_edited_ledger_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("veto", version="1")
    path = tmp_path / LEDGER
    path.write_bytes(b"not json\n" + path.read_bytes())
    with pytest.raises(RegistryError, match="damaged"):
        ledger.lines()


def test_a_veto_of_the_champion_brings_back_the_one_before(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.note("promote", version="1")
    ledger.note("promote", version="2")
    ledger.note("veto", version="1", restored=None)
    assert ledger.last_champion() == "2"
    ledger.note("veto", version="2", restored="1")
    assert ledger.last_champion() == "1"


def _write(folder: str, count: int) -> None:
    ledger = Ledger(Path(folder))
    for number in range(count):
        with ledger.locked():
            ledger.note("promote", version=str(number))


def test_two_writers_lose_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(tmp_path), 25)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(Ledger(tmp_path).lines()) == 50
