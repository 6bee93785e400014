from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.artifacts import read_json, verify, write_json, write_manifest
from potstill.config.base import Project
from potstill.config.evaluation_params import Export, Quantize
from potstill.errors import ModelError
from tasks.quantize import run
from tasks.stage import Stage


def _stage(root: Path, teacher: Any) -> Stage:
    sections = {"project": Project(name="p"), "quantize": Quantize(teacher=teacher), "export": Export()}
    deps = {name: root / name for name in ("tokens", "teacher")}
    return Stage("quantize", sections, deps, {"teacher_int8": root / "teacher_int8"})


def _write_teachers(root: Path, weights: list[float | list[float]]) -> None:
    """Teachers of two labels without their models."""
    folders = [".", *(f"members/{number}" for number in range(1, len(weights)))]
    members = [
        {"folder": folder, "weight": weight, "tokens": "."} for folder, weight in zip(folders, weights, strict=True)
    ]
    write_json(root / "teacher/members.json", members)
    write_manifest(root / "teacher", {"member_scores": [0.9, 0.7, 0.8][: len(weights)]})


def test_a_quantized_teacher_that_nobody_wants_is_none(tmp_path: Path) -> None:
    assert run(_stage(tmp_path, False)).summary == "no quantized teacher: quantize.teacher is false"
    assert verify(tmp_path / "teacher_int8") == {"absent": "quantize.teacher is false"}


def test_teachers_of_different_labels_have_no_quantized_form(tmp_path: Path) -> None:
    _write_teachers(tmp_path, [[1.0, 0.0], [0.0, 1.0]])
    run(_stage(tmp_path, "auto"))
    reason = "none of the 2 teachers answers every label"
    assert read_json(tmp_path / "teacher_int8/manifest.json")["about"] == {"absent": reason}
    with pytest.raises(ModelError, match=f"there is no quantized teacher: {reason}; set quantize.teacher to auto"):
        run(_stage(tmp_path, True))


def test_of_several_teachers_the_best_that_answers_every_label_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_teachers(tmp_path, [[0.5, 0.0], [0.3, 0.5], [0.2, 0.5]])
    chosen = []
    monkeypatch.setattr("tasks.quantize._quantize", lambda stage, choice: chosen.append(choice))
    run(_stage(tmp_path, "auto"))
    _write_teachers(tmp_path, [0.4, 0.3, 0.3])
    run(_stage(tmp_path, "auto"))
    assert [choice.number for choice in chosen] == [2, 0]
    assert chosen[0].member.folder == tmp_path / "teacher/members/2"
