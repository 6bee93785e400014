"""The ML Test Score: its items, their proofs, and the command that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.commands import score_pipeline
from flows.commands.ml_test_score import ITEMS, PAGE, SECTIONS, TARGET, Item, render_page, score, section_points
from flows.commands.score_pipeline import missing_proofs, show
from potstill.errors import PotstillError
from tests.conftest import REPOSITORY


def test_every_test_and_page_that_the_score_names_exists() -> None:
    assert missing_proofs(REPOSITORY, ITEMS) == []


def test_what_does_not_exist_is_found() -> None:
    tests = ("flows/test_score_pipeline.py::test_of_nothing", "flows/test_nothing.py::test_x")
    item = Item("data", "practice", 1, "why", tests, ("evaluation.md#nothing", "nothing.md"))
    missing = [f"tests/{test}" for test in sorted(tests)] + ["docs/evaluation.md#nothing", "docs/nothing.md"]
    assert missing_proofs(REPOSITORY, [item]) == missing


def test_each_section_has_the_seven_items_of_the_paper_with_honest_points() -> None:
    assert [sum(item.section == section for item in ITEMS) for section in SECTIONS] == [7, 7, 7, 7]
    for item in ITEMS:
        assert item.points in (0, 0.5, 1)
        assert ("Missing: " in item.reason) == (item.points < 1), item.practice
        assert bool(item.tests) == (item.points > 0), item.practice
        assert item.pages, item.practice
    assert score() == min(section_points().values()) >= TARGET


def test_the_page_is_up_to_date() -> None:
    page = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    assert page == render_page()  # where this fails: python scripts/score_page.py


def test_the_command_shows_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    show(as_json=False)
    printed = capsys.readouterr().out
    assert f"ML Test Score {score():g}, that of the weakest section" in printed
    assert f"each exists in {REPOSITORY}" in printed
    show(as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["score"], facts["checked"], len(facts["items"])) == (score(), True, 28)


def test_an_installed_package_says_where_the_tests_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(score_pipeline, "ROOT", tmp_path)
    show(as_json=True)
    assert json.loads(capsys.readouterr().out)["checked"] is False
    show(as_json=False)
    assert "only a checkout of Potstill has them" in capsys.readouterr().out


def test_a_lost_test_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_pipeline, "ITEMS", [Item("data", "practice", 1, "why", ("test_rooms.py::test_lost",))])
    with pytest.raises(PotstillError, match=r"names what does not exist: tests/test_rooms\.py::test_lost"):
        show(as_json=False)
