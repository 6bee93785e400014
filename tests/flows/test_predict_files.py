"""`potstill predict`: the version that answers, and what the command prints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from flows.commands.predict_arrivals import predict_folder, predict_stream
from flows.commands.predict_files import predict
from potstill.errors import (
    ChecksumError,
    OutputError,
    ParamsError,
    RegistryError,
    SignatureError,
    StreamError,
    ToolError,
)
from potstill.prediction.folder_prediction import FolderPrediction
from potstill.registry.version_artifacts import SERVING
from potstill.serving.launch import bento_path
from tests.flows.test_serve_champion import require
from tests.keys import write_keys
from tests.potstill.prediction.models import TEXTS, csv_bytes, read_lines
from tests.potstill.serving.folders import flip_byte
from tests.redis_server import need_redis, redis_server
from tests.registries import BENTO_TAG, PROJECT, write_champion

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def template(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_champion(tiny_base, tmp_path_factory.mktemp("predict"))


@pytest.fixture
def workspace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(template / "bentoml", tmp_path / "bentoml")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    folder = template / "workspace"
    shutil.copyfile(Path(__file__).parents[2] / "params.yaml", folder / "params.yaml")
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_bytes(csv_bytes([["id", "text"], *enumerate([*TEXTS, ""])]))
    return folder


def run(
    workspace: Path, version: str = "champion", text: tuple[str, ...] | None = ("text",), out: str = "out.jsonl"
) -> None:
    predict(workspace, ["in.csv"], out, text, version, None)


def test_the_champion_answers_and_the_command_says_what_came_out(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(workspace)
    said = capsys.readouterr().out
    rows = read_lines(Path("out.jsonl"))
    count = sum(row["model_abstained"] for row in rows)
    negative = sum(row["model_label"] == "negative" for row in rows)
    name = rows[0]["model_version"]
    for line in (
        f"version   1 ({name})",
        "rows      120 with an answer",
        "rejected  1 rows, listed in out.jsonl.rejected.jsonl",
        f"abstained {count} answers of a confidence below 0.750",
        "drift     no verdict: 120 texts were counted, watch.min_texts is 500",
    ):
        assert line in said.splitlines()
    assert f"negative {negative}" in said
    assert json.loads(Path("out.jsonl.manifest.json").read_text())["run"]["version"] == "1"
    run(workspace, "1")
    again = capsys.readouterr().out.splitlines()
    assert again[0] == "out.jsonl is complete; nothing was computed"
    assert again[1:] == [line for line in said.splitlines() if not line.startswith(("predict:", "computed"))]


def test_explanations_are_of_the_label_that_params_or_the_command_line_name(workspace: Path) -> None:
    path = workspace / "params.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("\npredict:", "\npredict:\n  alarm: negative", 1), encoding="utf-8")
    for alarm in (None, "positive"):
        predict(workspace, ["in.csv"], f"{alarm}.jsonl", ["text"], "champion", None, 2, alarm)
        rows = read_lines(Path(f"{alarm}.jsonl.explained.jsonl"))
        assert [row["chosen"] for row in rows] == ["least certain"] * 2 + ["most alarming"] * 2
        assert {row["label"] for row in rows[2:]} == {alarm or "negative"}
    with pytest.raises(ParamsError, match="say how many with --explain N"):
        predict(workspace, ["in.csv"], "out.jsonl", ["text"], "champion", None, 0, "positive")


def test_a_bento_that_is_not_here_comes_from_the_registry_and_an_altered_one_is_refused(workspace: Path) -> None:
    shutil.rmtree(bento_path(BENTO_TAG))
    run(workspace)
    flip_byte(bento_path(BENTO_TAG) / "src" / SERVING / "model.onnx")
    with pytest.raises(ChecksumError, match="is altered"):
        run(workspace)


def test_a_required_signature_is_checked(workspace: Path, tmp_path: Path) -> None:
    require(workspace, write_keys(tmp_path / "keys"))
    with pytest.raises(SignatureError, match="has no signature"):
        run(workspace)


def test_a_stream_is_answered_until_the_command_is_terminated(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need_redis()
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        for text in [*TEXTS[:9], ""]:
            server.client.xadd("reviews", {"text": text})

        def terminate() -> None:
            while server.client.xlen("answers") < 9:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        with ThreadPoolExecutor(1) as pool:
            terminated = pool.submit(terminate)
            predict_stream(workspace, f"{server.url}/reviews", f"{server.url}/answers", None, "champion", None)
            terminated.result()
        said = capsys.readouterr().out.splitlines()
        name = server.client.xrange("answers")[0][1][b"model_version"].decode()
    assert said[0] == f"stream: version 1 answers {server.url}/reviews to {server.url}/answers"
    assert f"version   1 ({name})" in said
    assert "rows      9 with an answer" in said
    assert "rejected  1 records, listed in the stream answers:rejected" in said
    with pytest.raises(StreamError, match=f"{server.url} does not answer"):
        predict_stream(workspace, f"{server.url}/reviews", f"{server.url}/answers", None, "champion", None)


def test_a_folder_is_watched_until_an_interruption(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("arriving").mkdir()
    Path("in.csv").rename("arriving/in.csv")
    monkeypatch.setattr(FolderPrediction, "run", lambda self: (self.scan(), self.scan(), interrupt()))
    predict_folder(workspace, "arriving", "out", None, "champion", None)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "watch: version 1 answers the files of arriving in out"
    assert said[-2:] == [
        "watch: arriving/in.csv: 120 rows, 1 rejected; out/in.csv.jsonl",
        "watch: ended; the same command goes on",
    ]
    with pytest.raises(OutputError, match="s3://bucket/out is a URL; name a folder of this machine"):
        predict_folder(workspace, "arriving", "s3://bucket/out", None, "champion", None)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt


def test_without_a_champion_a_version_or_a_text_it_is_one_sentence(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=f"{PROJECT} has no version '7'; `potstill status` shows those there are"):
        run(workspace, "7")
    with pytest.raises(ParamsError, match=r"reads 1 text a row, but 2 columns are named \(a, b\); give --text COLUMN"):
        run(workspace, text=("a", "b"))
    with pytest.raises(ToolError, match=r"gs://bucket/out.jsonl cannot be opened: Please install gcsfs to access"):
        run(workspace, out="gs://bucket/out.jsonl")
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copyfile(workspace / "params.yaml", empty / "params.yaml")
    with pytest.raises(RegistryError, match=f"{PROJECT} has no champion yet; `potstill run` makes one"):
        run(empty)
    assert sorted(path.name for path in Path().iterdir()) == ["bentoml", "empty", "in.csv"]
