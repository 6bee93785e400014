"""The whole run with the real default teacher base on 600 of the real default rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from potstill.artifacts import read_json
from tests.conftest import write_csv
from tests.e2e.workspaces import command, make_workspace, status

pytestmark = pytest.mark.timeout(600)

SETTINGS = [
    "teacher.epochs=3",
    "distill.epochs=3",
    "finetune.epochs=1",
    "tokenize.max_length=64",
    "evaluate.latency_texts=10",
    "evaluate.throughput_texts=40",
    "evaluate.rounds=1",
    "gate.min_teacher_ratio=0.8",
    "gate.min_gain_over_control=-0.2",
    "gate.max_ece=null",
    "gate.min_speedup=null",
]


def clear_rows(snippets: Path, count: int) -> list[tuple[str, str]]:
    """The first rows whose rating has a clear sign."""
    rows = []
    for line in snippets.read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        if abs(float(rating)) >= 0.5:
            rows.append((text, "positive" if float(rating) > 0 else "negative"))
    return rows[:count]


def test_600_rows_become_a_small_served_student(tmp_path: Path, default_base: Path, default_raw: Path) -> None:
    snippets = next(default_raw.rglob("movieReviewSnippets_GroundTruth.txt"))
    data = write_csv(tmp_path / "rows.csv", clear_rows(snippets, 600))
    folder = make_workspace(tmp_path / "movies", data, default_base, tmp_path, SETTINGS)
    command("potstill", "run", cwd=folder, home=tmp_path, seconds=500)
    metrics = read_json(folder / "reports" / "metrics.json")["models"]
    assert metrics["teacher"]["parameters"] == 22_713_986
    assert metrics["student"]["parameters"] == 17_389_826
    assert metrics["teacher"]["accuracy"] > 0.6  # better than chance on so few rows
    assert metrics["int8"]["megabytes"] <= 20
    assert status(folder, tmp_path)["versions"]["champion"]["bento"].startswith("potstill-movies:")
