from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.doctor import findings
from flows.graph import Graph
from flows.workspace import create, strided_layers
from potstill.config import load_params
from potstill.data.sources import local_fingerprint
from potstill.errors import EmptyDataError, FetchError, MissingColumnError, ModelError, ParamsError, PotstillError
from tasks.codefile import check_code_file
from tests.conftest import generate_rows, write_csv

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own, in pygtrie


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "rows.csv", generate_rows(200))
    return Path("rows.csv")


def test_a_workspace_is_whole(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(Path("My Reviews"), data, "text", "label", None)
    folder = tmp_path / "My Reviews"
    params = load_params(folder / "params.yaml")
    assert params.project.name == "my-reviews"
    assert params.validate_.min_rows == {"train": 70, "dev": 10, "test": 20, "transfer": 0}
    assert params.prepare.labels is None
    assert "# Everything a run depends on" in (folder / "params.yaml").read_text(encoding="utf-8")
    monkeypatch.chdir(folder)
    assert list(local_fingerprint(params.ingest)) == ["data.data"]
    graph = Graph(folder)
    assert graph.order[0] == "ingest"
    assert graph.stale() == graph.order
    check_code_file(folder)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {"code.yaml": ["potstill", "tree"]} in stages["teacher"]["params"]
    listed = [dep for stage in stages.values() for dep in stage.get("deps", [])]
    assert {dep.split("/")[0] for dep in listed} == {"data"}
    assert json.loads((folder / "data/accepted.json").read_text(encoding="utf-8")) == {}
    status = subprocess.run(["git", "status", "--short"], cwd=folder, capture_output=True, text=True, check=True)
    assert "params.yaml" in status.stdout
    names = {finding.name: finding.ok for finding in findings(folder)}
    assert names["dvc"]
    assert names["params"]


def test_inside_another_repository(data: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    create(Path("inner"), data, "text", "label", None)
    assert not (tmp_path / "inner" / ".git").exists()
    assert Graph(tmp_path / "inner").order


def test_a_pair_of_columns_and_integer_labels(tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["question", "answer", "relevant"])
        writer.writerows([[f"q {number}", f"a {number}", number % 2] for number in range(60)])
    create(tmp_path / "pairs", tmp_path / "pairs.csv", "question,answer", "relevant", None)
    assert load_params(tmp_path / "pairs/params.yaml").prepare.text == ["question", "answer"]


def test_a_teacher_of_ones_own(data: Path, tmp_path: Path, tiny_base: Path) -> None:
    create(tmp_path / "own", data, "text", "label", str(tiny_base))
    params = load_params(tmp_path / "own/params.yaml")
    assert params.ingest.teacher.kind == "file"
    assert params.distill.layers == [0, 3]
    assert not params.teacher.fine_tuned
    assert "all-MiniLM" not in (tmp_path / "own/params.yaml").read_text(encoding="utf-8")
    create(tmp_path / "hub", data, "text", "label", "some/model@" + "a" * 40)
    assert load_params(tmp_path / "hub/params.yaml").ingest.teacher.kind == "hub"
    create(tmp_path / "none", data, "text", "label", "scratch")
    params = load_params(tmp_path / "none/params.yaml")
    assert (params.ingest.teacher.kind, params.distill.layers) == ("scratch", [0, 3])


@pytest.mark.parametrize(
    ("layers", "taken"), [(1, [0]), (2, [0]), (4, [0, 3]), (6, [0, 2, 5]), (12, [0, 2, 4, 7, 9, 11])]
)
def test_strided_layers(layers: int, taken: list[int]) -> None:
    assert strided_layers(layers) == taken


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"folder": "."}, ParamsError, "is not empty"),
        ({"data": "missing.csv"}, FetchError, "does not exist"),
        ({"text": "txt"}, MissingColumnError, "did you mean 'text'"),
        ({"label": "lable"}, MissingColumnError, "did you mean 'label'"),
        ({"data": "empty.csv"}, EmptyDataError, "empty.csv"),
        ({"teacher": "some/model"}, ParamsError, "id@commit"),
        ({"teacher": "some/model@main"}, ParamsError, "40 hex digits"),
        ({"teacher": "."}, ModelError, "is no model folder"),
    ],
)
def test_what_cannot_be_used_leaves_nothing(
    data: Path, tmp_path: Path, change: dict[str, str], kind: type[PotstillError], words: str
) -> None:
    (tmp_path / "empty.csv").write_text("text,label\n", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    given = {"folder": "new", "data": "rows.csv", "text": "text", "label": "label", "teacher": None, **change}
    with pytest.raises(kind) as error:
        create(
            Path(str(given["folder"])),
            Path(str(given["data"])),
            str(given["text"]),
            str(given["label"]),
            given["teacher"],
        )
    assert words in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
