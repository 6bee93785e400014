from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.commands.probe_layers import show
from potstill.artifacts import file_sums
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import ChecksumError, ModelError, ParamsError
from potstill.studies.layer_probe import Probed
from tasks.probe import probe
from tests.tasks.data_workspace import make_workspace, run_stage, run_stages


@pytest.fixture(scope="module")
def taught(slow: None, tmp_path_factory: pytest.TempPathFactory, tiny_rows: Path, tiny_base: Path) -> Path:
    """A workspace whose teacher has learned, with its signals."""
    folder = make_workspace(
        tmp_path_factory.mktemp("probe") / "w", tiny_rows, tiny_base,
        project={"device": "cpu", "precision": "fp32"},
        tokenize={"max_length": 48, "vocabulary": {"min_count": 1}},
        teacher={"epochs": 4, "learning_rate": 5e-3, "batch_tokens": 512, "average_decay": None},
        distill={"layers": [0, 2], "learning_rate": 1e-3, "batch_tokens": 256, "average_decay": None},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        run_stages(
            *("ingest", "prepare", "validate", "tokenize", "teacher", "signals", "general"),
            monkeypatch=patch,
            folder=folder,
        )
    return folder


@pytest.fixture
def params(taught: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(taught)
    return load_params(Path("params.yaml"))


@pytest.mark.slow
def test_a_table_of_the_usual_choices_and_nothing_changes(
    params: Params, taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file_sums(taught / "data")
    show(taught, [], 100)
    said = capsys.readouterr().out
    for layers in ("[0, 2]", "[1, 3]", "[0, 3]", "[0, 1]", "[2, 3]"):
        assert f"probe: {layers} agrees with the teacher by" in said
    table = said.split("seconds\n")[1].splitlines()
    shares = [float(line.split("]")[1].split("%")[0]) for line in table[:5]]
    assert shares == sorted(shares, reverse=True)
    best = table[0].split("]")[0] + "]"
    assert said.splitlines()[-1] == f"best: potstill run --set 'distill.layers={best}'"
    assert file_sums(taught / "data") == before


def test_the_same_numbers_again(params: Params) -> None:
    one, two = (probe(params, [[0], [3, 1]], 80, lambda _: None) for _ in range(2))
    assert [probed.layers for probed in one] == [(0,), (3, 1)]
    assert [(probed.agreement, probed.distance, probed.score) for probed in one] == [
        (probed.agreement, probed.distance, probed.score) for probed in two
    ]


def test_a_student_of_all_layers_that_learns_nothing_is_the_teacher(params: Params) -> None:
    distill = params.distill.model_copy(update={"learning_rate": 1e-12})
    seen: list[Probed] = []
    probe(params.model_copy(update={"distill": distill}), [[3], [0, 1, 2, 3]], 10_000, seen.append)
    assert seen[0].distance > 1e-6
    assert seen[1].agreement == 1.0
    assert abs(seen[1].distance) < 1e-9


@pytest.mark.parametrize("given", ["3", "[]", "[0, -1]", "[a]", "[true]"])
def test_choices_that_are_none(params: Params, taught: Path, given: str) -> None:
    with pytest.raises(ParamsError, match="give a list of layers counted from 0"):
        show(taught, [given], 10)


def test_what_cannot_be_probed(params: Params, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="names layer 4, but the teacher"):
        probe(params, [[4]], 10, lambda _: None)
    random = params.model_copy(
        update={"distill": params.distill.model_validate(params.distill.model_dump() | {"student": {"kind": "config"}})}
    )
    with pytest.raises(ModelError, match="of kind config takes no layers over"):
        probe(random, [], 10, lambda _: None)
    shutil.copytree(taught, tmp_path / "w", ignore=shutil.ignore_patterns("signals"))
    monkeypatch.chdir(tmp_path / "w")
    with pytest.raises(ChecksumError, match=r"data/signals does not exist; .*dvc repro signals"):
        probe(params, [], 10, lambda _: None)
    run_stage("signals")
    assert probe(params, [[1]], 10, lambda _: None)
