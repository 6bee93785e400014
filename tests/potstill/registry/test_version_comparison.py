from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.artifacts import write_json
from potstill.registry.version_comparison import VersionComparison, compare_versions
from tests.registries import answers, write_evidence


def comparison(
    tmp_path: Path, wrong: range, champion_wrong: range, rows: int = 1000, **numbers: float
) -> VersionComparison:
    candidate = write_evidence(tmp_path / "candidate", *answers(rows, wrong), **numbers)
    champion = write_evidence(tmp_path / "champion", *answers(rows, champion_wrong))
    return compare_versions(candidate, champion)


def test_an_equal_candidate_is_worse_in_nothing(tmp_path: Path) -> None:
    equal = comparison(tmp_path, range(100), range(100))
    score = equal.differences[0]
    assert (score.measure, score.difference, score.low, score.high, score.rows) == ("accuracy", 0, 0, 0, 1000)
    assert equal.worse == ()
    assert "both were tested on these 1,000 rows" in equal.basis


@pytest.mark.parametrize(("wrong", "outcome"), [(range(200), "worse"), (range(20), "better")])
def test_a_worse_candidate_is_worse_and_a_better_one_is_not(tmp_path: Path, wrong: range, outcome: str) -> None:
    found = comparison(tmp_path, wrong, range(100))
    score = found.differences[0]
    assert score.low is not None
    assert score.high is not None
    assert (score.high < 0) is (outcome == "worse")
    assert (score.low > 0) is (outcome == "better")
    assert bool(found.worse) is (outcome == "worse")
    if found.worse:
        assert found.worse[0].startswith("accuracy 80.0%, the champion's 90.0%: -10.0 points (")


def test_a_candidate_that_is_worse_on_one_class_alone_is_named_with_it(tmp_path: Path) -> None:
    found = comparison(tmp_path, range(0, 200, 2), range(1, 200, 2))  # all errors in one class, or in the other
    assert found.differences[0].difference == 0
    assert [sentence.split(" 8")[0] for sentence in found.worse] == ["recall of negative"]


def test_a_dearer_candidate_is_told(tmp_path: Path) -> None:
    found = comparison(tmp_path, range(10), range(10), megabytes=30.0, p50_ms=4.1)
    assert found.worse == ("model file 30.0 MB, the champion's 17.5 MB",)


def test_the_order_of_labels_does_not_matter(tmp_path: Path) -> None:
    ids, gold, classes = answers(400, range(40))
    candidate = write_evidence(tmp_path / "candidate", ids, gold, classes)
    turned = {"labels": ["positive", "negative"]}
    champion = write_evidence(
        tmp_path / "champion", ids, [1 - label for label in gold], [1 - label for label in classes], card=turned
    )
    found = compare_versions(candidate, champion)
    assert found.differences[0].champion == found.differences[0].candidate == 0.9


@pytest.mark.parametrize(
    ("card", "reason"),
    [({"task": "regression"}, "different tasks"), ({"labels": ["a", "b"]}, "different labels"), ({}, "not with it")],
)
def test_what_cannot_be_compared_row_by_row_says_so(tmp_path: Path, card: dict[str, Any], reason: str) -> None:
    candidate = write_evidence(tmp_path / "candidate", *answers(100, range(10)))
    champion = write_evidence(tmp_path / "champion", *answers(100, range(20)), card=card)
    if not card:
        (champion / "predictions.parquet").unlink()
    found = compare_versions(candidate, champion)
    assert reason in found.basis
    assert "without an interval" in found.basis
    assert (found.differences[0].low, found.differences[0].is_worse) == (None, False)
    assert found.differences[0].difference == pytest.approx(0.1)


def test_versions_of_different_test_rows_are_not_compared_row_by_row(tmp_path: Path) -> None:
    ids, gold, classes = answers(100, range(10))
    candidate = write_evidence(tmp_path / "candidate", ids, gold, classes)
    champion = write_evidence(tmp_path / "champion", [f"other {name}" for name in ids[:90]] + ids[90:], gold, classes)
    assert "different rows (10 in common)" in compare_versions(candidate, champion).basis


def test_the_gates_own_comparison_with_the_champion_stands_in(tmp_path: Path) -> None:
    ids, gold, classes = answers(100, range(10))
    candidate = write_evidence(tmp_path / "candidate", ids, gold, classes)
    champion = write_evidence(tmp_path / "champion", [f"other {name}" for name in ids], gold, classes)
    found = {"outcome": "LOSES", "difference": -0.05, "low": -0.08, "high": -0.02}
    part = {"name": "label = negative", "rows": 50, "rivals": {"champion": found}}
    judged = {"accuracy": 0.95, "comparison": {**found, "rows": 100}, "slices": {"slices": [part]}}
    write_json(candidate / "gate.json", {"champion": judged})
    compared = compare_versions(candidate, champion, is_judged_rival=True)
    assert "the gate has asked the champion all test rows" in compared.basis
    assert compared.worse == (
        "accuracy 90.0%, the champion's 95.0%: -5.0 points (-8.0 to -2.0) on 100 rows",
        "label = negative: -5.0 points (-8.0 to -2.0) on 50 rows",
    )
    # Another champion than the one of the verdict.
    assert compare_versions(candidate, champion).worse == ()
