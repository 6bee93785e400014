from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from flows.commands.check_machine import findings
from flows.commands.create_workspace import create
from flows.engine.dvc_graph import Graph
from potstill.compute.processes import free_port
from potstill.config.params_file import load_params
from potstill.config.tokenize_params import Vocabulary
from potstill.data.fetching.ingestion import local_fingerprint
from potstill.data.proposals.proposal import DataOptions
from potstill.errors import (
    EmptyDataError,
    FetchError,
    MissingColumnError,
    ModelError,
    ParamsError,
    PotstillError,
    TokenizationError,
    ToolError,
)
from tasks.identity import Code, check_code_file
from tests.conftest import REPOSITORY, generate_rows, write_csv
from tests.teachers import widen_table

CASES = Path(__file__).parents[1] / "cases"
COLUMNS = DataOptions(("text",), ("label",))
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own, in pygtrie


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "rows.csv", generate_rows(200))
    return Path("rows.csv")


@pytest.mark.slow
def test_a_workspace_is_whole(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(Path("My Reviews"), data, COLUMNS, None)
    folder = tmp_path / "My Reviews"
    params = load_params(folder / "params.yaml")
    assert params.project.name == "my-reviews"
    assert params.validate_.min_rows == {"train": 73, "dev": 9, "test": 17, "transfer": 0}
    assert params.prepare.labels is None
    assert "# Everything a run depends on" in (folder / "params.yaml").read_text(encoding="utf-8")
    monkeypatch.chdir(folder)
    assert list(local_fingerprint(params.ingest)) == ["data.data"]
    graph = Graph(folder, params)
    assert graph.order[0] == "ingest"
    assert graph.stale() == graph.order
    check_code_file(folder, "teacher", Code().modules("teacher"))
    assert (folder / "dvc.yaml").read_bytes() == (REPOSITORY / "dvc.yaml").read_bytes()
    assert json.loads((folder / "data/accepted.json").read_text(encoding="utf-8")) == {}
    status = subprocess.run(["git", "status", "--short"], cwd=folder, capture_output=True, text=True, check=True)
    assert "params.yaml" in status.stdout
    names = {finding.name: finding.ok for finding in findings(folder)}
    assert names["dvc"]
    assert names["params"]


@pytest.mark.slow
def test_inside_another_repository(data: Path, tmp_path: Path, tiny_base: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    create(Path("inner"), data, COLUMNS, str(tiny_base))
    assert not (tmp_path / "inner" / ".git").exists()
    assert Graph(tmp_path / "inner", load_params(tmp_path / "inner/params.yaml")).order


@pytest.mark.slow
def test_a_teacher_with_a_large_table_gets_a_student_with_a_trimmed_vocabulary(
    data: Path, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = load_params(REPOSITORY / "params.yaml").gate.max_file_mb
    create(tmp_path / "large", data, COLUMNS, str(widen_table(tiny_base, tmp_path / "base", rows=700_000)))
    params = load_params(tmp_path / "large/params.yaml")
    assert params.tokenize.vocabulary == Vocabulary(max_tokens="auto", scripts="used", spell=False)
    assert params.gate.max_file_mb == limit
    assert "MB at most, with a trimmed vocabulary" in capsys.readouterr().out


@pytest.mark.slow
def test_a_pair_of_columns_and_integer_labels(tmp_path: Path) -> None:
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["question", "answer", "relevant"])
        writer.writerows([[f"q {number}", f"a {number}", number % 2] for number in range(60)])
    create(tmp_path / "pairs", tmp_path / "pairs.csv", DataOptions(("question", "answer"), ("relevant",)), None)
    assert load_params(tmp_path / "pairs/params.yaml").prepare.text == ["question", "answer"]


@pytest.mark.slow
def test_a_teacher_of_ones_own(data: Path, tmp_path: Path, tiny_base: Path) -> None:
    create(tmp_path / "own", data, COLUMNS, str(tiny_base))
    params = load_params(tmp_path / "own/params.yaml")
    assert params.ingest.teacher.kind == "file"
    assert params.distill.layers == [0, 2]
    assert not params.teacher.fine_tuned
    assert "all-MiniLM" not in (tmp_path / "own/params.yaml").read_text(encoding="utf-8")
    assert params.tokenize.vocabulary is None
    create(tmp_path / "none", data, COLUMNS, "scratch")
    params = load_params(tmp_path / "none/params.yaml")
    assert (params.ingest.teacher.kind, params.distill.layers) == ("scratch", [0, 2])


@pytest.mark.slow
def test_a_hub_teacher_that_cannot_be_looked_at_leaves_no_workspace(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(FetchError, match="some/model"):
        create(tmp_path / "hub", data, COLUMNS, "some/model@" + "a" * 40)
    assert not (tmp_path / "hub").exists()


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
        wishes = DataOptions((str(given["text"]),), (str(given["label"]),))
        create(Path(str(given["folder"])), Path(str(given["data"])), wishes, given["teacher"])
    assert words in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_an_error_half_way_takes_the_folder_away_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin" / "git"
    git.write_text("#!/bin/sh\necho half > half-made; exit 1\n", encoding="utf-8")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for words in ("git init", "git is not installed"):
        for folder in ("empty", "deep/new"):
            with pytest.raises(ToolError, match=words):
                create(Path(folder), data, COLUMNS, None)
        git.unlink(missing_ok=True)
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "deep").exists()


@pytest.mark.slow
def test_what_was_seen_and_what_to_expect_is_shown(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line, with nothing said but the data."""
    from typer.testing import CliRunner

    from flows.cli import app

    result = CliRunner().invoke(
        app, ["init", str(tmp_path / "w"), "--data", str(CASES / "d07"), "--teacher", str(tiny_base)]
    )
    assert result.exit_code == 0, result.output
    for words in (
        "420 rows of 3 files; csv with ',' between cells", "'label' (text, 2 different)",
        "task:        single_label of 'text': 'label' has 2 different names",
        "train 300, dev 60, test 60, transfer 0: train, dev, test given by their names", "classes:     2: ",
        "longer than tokenize.max_length = 64", "unknown:", "ships:       an INT8 file", "teacher:     ",
        "on this machine", "is ready: look through",
    ):  # fmt: skip
        assert words in result.output, words
    params = load_params(tmp_path / "w" / "params.yaml")
    assert params.tokenize.max_length == 64
    assert params.teacher.epochs > 2


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["d23/train.conll"], "prepare.task", "token_classification"),
        (["d24c/train-v2.0.json"], "prepare.text", ["question", "context"]),
        (["d04/multi.csv"], "prepare.task", "multi_label"),
        (["teachers/five.csv", "--task", "regression"], "gate.max_ece", None),
        (["d03e/prodigy.jsonl", "--unlabelled", "transfer"], "prepare.unlabelled", "transfer"),
        (["d07", "--split", "draw"], "prepare.tables.0.split", "draw"),
        (["d02b/umfrage.csv", "--sep", ";"], "prepare.tables.0.separator", ";"),
        (["d23c/ints.jsonl", "--labels", "O,B-P,I-P,B-L"], "prepare.label.names", ["O", "B-P", "I-P", "B-L"]),
        (["d11b/banking.csv"], "prepare.split.class_seeds", {"topic 14": 1, "topic 4": 1}),
    ],
)
def test_params_of_every_task_fit(tmp_path: Path, arguments: list[str], key: str, value: object) -> None:
    from functools import reduce

    from flows.commands.propose_params import TeacherChoice, propose_params
    from potstill.data.proposals.survey import survey
    from tasks.stage import default_file

    name, *options = arguments
    said = dict(zip(options[::2], options[1::2], strict=True))
    labels = tuple(said["--labels"].split(",")) if "--labels" in said else ()
    wishes = DataOptions(
        (), (), said.get("--task"), said.get("--split"), said.get("--sep"), labels, said.get("--unlabelled")
    )
    read = survey(CASES / name, wishes)
    proposed = propose_params(default_file("params.yaml"), "w", CASES / name, read, TeacherChoice(None, None, None))
    assert proposed.params.prepare.labelled_rows is None  # only the default data lacks labels that it has
    whole = proposed.params.model_dump(by_alias=True)
    assert reduce(lambda at, part: at[int(part) if part.isdecimal() else part], key.split("."), whole) == value


@pytest.mark.slow
def test_texts_that_the_teacher_cannot_read_are_refused(tmp_path: Path) -> None:
    good = ["这家酒店的服务非常好", "质量很好我很喜欢", "物流很快包装完整", "下次还会再来购买"]
    bad = ["价格太贵了不值得", "屏幕碎了不能使用", "客服态度非常差劲", "电池很快就没电了"]
    rows = [
        (f"{text}{other}", label) for label, texts in (("好", good), ("坏", bad)) for text in texts for other in texts
    ]
    data = write_csv(tmp_path / "chinese.csv", rows)
    with pytest.raises(TokenizationError, match=r"does not know \d\d\.\d% of the tokens.*--teacher scratch trains one"):
        create(tmp_path / "w", data, COLUMNS, None)
    assert not (tmp_path / "w").exists()
    create(tmp_path / "w", data, COLUMNS, "scratch")
    assert load_params(tmp_path / "w" / "params.yaml").pretrain.epochs
