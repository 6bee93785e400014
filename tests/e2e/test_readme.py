"""The README's commands in a clone, as a new user types them: the real default teacher base on 320 of the real rows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.commands.params_changes import change_params
from potstill.artifacts import read_json
from tests.checkout import copy_checkout, start_repository
from tests.conftest import REPOSITORY, write_csv
from tests.e2e.pages import Shell, blocks
from tests.e2e.workspaces import command, make_workspace

# A whole run on real weights: its limit is for a machine that is slow and has other work.
pytestmark = pytest.mark.timeout(2400)

README = REPOSITORY / "README.md"
ROWS = 320
# What 320 rows need in place of 7,000: more and smaller steps, and gates for so few rows.
SETTINGS = [
    "teacher.epochs=3",
    "teacher.batch_tokens=256",
    "prepare.augment=null",
    "distill.epochs=3",
    "distill.batch_tokens=256",
    "control.epochs=1",
    "tokenize.max_length=64",
    "evaluate.latency_texts=10",
    "evaluate.throughput_texts=40",
    "evaluate.rounds=1",
    "evaluate.bootstrap=1000",
    # One of 25 dev rows is 4 points.
    "export.int8_min_agreement=0.8",
    "export.int8_max_accuracy_drop=0.1",
    "gate.min_accuracy=0.5",
    "gate.min_macro_f1=0.4",
    "gate.min_teacher_ratio=0.5",
    "gate.max_loss_to_champion=0.5",
    "gate.min_gain_over_control_upper=null",
    "gate.max_ece=null",
    "gate.min_speedup=null",
    "gate.min_advantage=null",
    "search.trials=1",
    "search.evaluations_per_epoch=1",
    "search.static={dimensions: [64], epochs: 2, learning_rate: 5.0e-3, batch_tokens: 8192}",
]


def clear_rows(snippets: Path) -> list[tuple[str, str]]:
    """Rows whose rating has a clear sign, from all over the file: it begins with one author's praise."""
    rows = []
    for line in snippets.read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        if abs(float(rating)) >= 0.5:
            rows.append((text, "positive" if float(rating) > 0 else "negative"))
    return rows[:: len(rows) // ROWS][:ROWS]


def clone(folder: Path) -> None:
    """A clone with the packages that are installed already."""
    copy_checkout(folder)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != ".installed":
            (folder / ".venv" / part.name).symlink_to(part)
    (folder / ".venv" / ".installed").touch()


def take_sections(params: Path, workspace: Path, settings: list[str]) -> None:
    """Have a clone's params read the data and the teacher of a workspace made by `potstill init`."""
    made = yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8"))
    sections = {name: made[name] for name in ("ingest", "prepare", "validate")}
    (workspace / "sections.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    change_params(params, workspace / "sections.yaml", settings)


def test_ci_calls_the_readmes_test_command() -> None:
    first = blocks(README)[0]
    assert [line.split("#")[0].strip() for line in first.code.splitlines()] == ["make run", "make test"]
    assert (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").rstrip().endswith("exec make test")
    said = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "test"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.rstrip().endswith("scripts/test.sh")


def test_the_commands_do_what_the_readme_says(tmp_path: Path, default_base: Path, default_raw: Path) -> None:
    snippets = next(default_raw.rglob("movieReviewSnippets_GroundTruth.txt"))
    data = write_csv(tmp_path / "reviews.csv", clear_rows(snippets))
    workspace = make_workspace(tmp_path / "made", data, default_base, tmp_path, [])
    folder = tmp_path / "potstill"
    clone(folder)
    shutil.copyfile(data, folder / "reviews.csv")
    take_sections(folder / "params.yaml", workspace, SETTINGS)
    start_repository(folder)

    printed = command("make", "run", cwd=folder, home=tmp_path, seconds=1200)
    assert "champion  version 1 of movie-reviews" in printed
    models = read_json(folder / "reports" / "metrics.json")["models"]
    assert models["teacher"]["parameters"] == 22_713_986
    assert models["student"]["parameters"] == 17_390_594
    assert models["teacher"]["accuracy"] > 0.6  # better than chance on so few rows
    assert models["int8"]["megabytes"] <= 20

    with Shell(folder, tmp_path) as shell:
        for block in blocks(README)[1:]:
            if block.kind[:1] == ["sh"]:
                shell.run(block)
