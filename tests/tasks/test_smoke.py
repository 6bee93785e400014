from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pyarrow.parquet as pq
import pytest

from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.config.serving_params import Serve
from potstill.errors import SmokeError
from potstill.inference.runtime import ModelCard, Student, read_card
from potstill.serving.launch import WATCH_FOLDER
from potstill.serving.openapi import typed_endpoint
from tasks.package import Packaged, package
from tasks.smoke import Golden, ask, compare, direct_answers, golden_texts, request_body, served, smoke
from tests.conftest import generate_rows
from tests.potstill.inference.test_spans import client
from tests.potstill.serving.folders import (
    REPOSITORY,
    card,
    flip_byte,
    processes_with,
    write_serving,
    write_span_model,
    write_workspace,
)

PREDICTIONS = Path("data/evaluation/predictions.parquet")
TEXTS = [text for text, _ in generate_rows(60)]


@pytest.fixture(scope="module")
def workspace(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder_copy = write_workspace(tiny_base, tmp_path_factory.mktemp("smoke") / "workspace", [*TEXTS, "long " * 5000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder_copy.parent / "bentoml"))
        yield folder_copy


@pytest.fixture(scope="module")
def params(workspace: Path) -> Params:
    found = load_params(workspace / "params.yaml")
    # More golden texts than a request may hold.
    return found.model_copy(update={"smoke": found.smoke.model_copy(update={"texts": 50})})


@pytest.fixture(scope="module")
def packaged(slow: None, workspace: Path, params: Params) -> Packaged:
    return package(params, workspace)


def copied(workspace: Path, target: Path) -> Path:
    return Path(shutil.copytree(workspace, target, ignore=shutil.ignore_patterns(".work")))


@pytest.mark.slow
def test_the_bento_answers_as_evaluated_and_is_stopped(
    workspace: Path, params: Params, packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WATCH_FOLDER, str(tmp_path / "watch"))
    result = smoke(params, workspace, packaged.tag)
    assert result.texts == 50
    assert result.difference <= 1e-6
    assert not (tmp_path / "watch").exists()  # nothing was asked by a user
    assert not processes_with(packaged.tag)


@pytest.mark.slow
def test_another_answer_than_the_evaluated_is_named(
    workspace: Path, params: Params, packaged: Packaged, tmp_path: Path
) -> None:
    folder_copy = copied(workspace, tmp_path / "workspace")
    table = pq.read_table(folder_copy / PREDICTIONS)
    moved = [[first + 0.01, second] for first, second in table["int8"].to_pylist()]
    pq.write_table(table.set_column(table.column_names.index("int8"), "int8", [moved]), folder_copy / PREDICTIONS)
    with pytest.raises(SmokeError, match=r"over smoke\.tolerance") as caught:
        smoke(params, folder_copy, packaged.tag)
    assert golden_texts(folder_copy, read_card(folder_copy / "data/serving"), params)[0].id in str(caught.value)
    assert not processes_with(packaged.tag)


@pytest.mark.slow
def test_an_altered_bento_does_not_start(
    workspace: Path, params: Params, packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    altered = tmp_path / "bentos" / packaged.path.parent.name / packaged.path.name
    shutil.copytree(packaged.path, altered)
    flip_byte(altered / "src/data/serving/model.onnx")
    with pytest.raises(SmokeError, match=r"did not start: .*model\.onnx is altered"):
        smoke(params, workspace, packaged.tag)
    assert not processes_with(packaged.tag)


def test_a_bento_that_is_not_ready_in_time_is_stopped(workspace: Path, params: Params, packaged: Packaged) -> None:
    hasty = params.model_copy(update={"smoke": params.smoke.model_copy(update={"start_seconds": 0.01})})
    with pytest.raises(SmokeError, match="was not ready"):
        smoke(hasty, workspace, packaged.tag)
    assert not processes_with(packaged.tag)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running_when_it_is_interrupted(
    workspace: Path, packaged: Packaged, number: signal.Signals
) -> None:
    code = (
        "import time; from pathlib import Path; from tasks.smoke import served\n"
        f"with served({packaged.tag!r}, Path('.work/interrupted.txt'), 60): print('up', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        assert len(processes_with(packaged.tag)) >= 3  # server, worker, and the process that holds them
        holder.send_signal(number)
        holder.wait(30)
    end = time.monotonic() + 10
    while processes_with(packaged.tag) and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes_with(packaged.tag)


def test_golden_texts_fit_the_limits_and_are_always_the_same(workspace: Path, params: Params) -> None:
    card = read_card(workspace / "data/serving")
    found = golden_texts(workspace, card, params)
    assert found == golden_texts(workspace, card, params)
    assert {row.text for row in found} < set(TEXTS)
    narrow = params.model_copy(update={"serve": params.serve.model_copy(update={"max_characters": 1})})
    with pytest.raises(SmokeError, match="no test text"):
        golden_texts(workspace, card, narrow)


class Echo(BaseHTTPRequestHandler):
    """A service that answers each text with itself, and refuses bodies over 60 bytes."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = json.dumps({"predictions": json.loads(body)["texts"]}).encode()
        self.send_response(413 if len(body) > 60 else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def test_requests_fit_the_limits_of_the_service_and_pass_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    texts = ["a", "ж" * 20, "b" * 40, "c", "d", "e"]
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert ask(address, ModelCard(**card()), texts, 2, 60) == texts
        server.shutdown()


def test_compare(workspace: Path) -> None:
    card = read_card(workspace / "data/serving")
    golden = [Golden("a", "x", [0.7, 0.3]), Golden("b", "y", [0.50001, 0.49999])]

    def answer(label: str, negative: float) -> dict[str, object]:
        return {"label": label, "probabilities": {"negative": negative, "positive": 1 - negative}}

    assert compare(golden, [answer("negative", 0.7), answer("negative", 0.50001)], card, 1e-4) < 1e-12
    # A tie may fall either way.
    assert compare(golden, [answer("negative", 0.70005), answer("positive", 0.49998)], card, 1e-4) < 1e-4
    with pytest.raises(SmokeError, match="labels test text a 'positive'"):
        compare(golden, [answer("positive", 0.7), answer("negative", 0.5)], card, 1e-4)
    with pytest.raises(SmokeError, match=r"over smoke\.tolerance"):
        compare(golden, [answer("negative", float("nan")), answer("negative", 0.5)], card, 1e-4)
    with pytest.raises(SmokeError, match="1 of 2"):
        compare(golden, [answer("negative", 0.7)], card, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["single", "pair", "token_classification", "question_answering"])
def test_a_service_answers_as_its_model_does_outside_it(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    if kind in ("single", "pair"):
        folder = write_serving(tiny_base, tmp_path / "serving", pair=kind == "pair")
    else:
        folder = write_span_model(tiny_base, tmp_path / "serving", kind)
    student = Student(folder, 1)
    golden = direct_answers(student)
    found = client(folder, max_queue_seconds=60).post(
        typed_endpoint(student.card).path, json=request_body(student.card, [row.text for row in golden])
    )
    assert found.status_code == 200, found.text
    answers = found.json()["predictions"]
    assert compare(golden, answers, student.card, 1e-5) <= 1e-5
    with pytest.raises(SmokeError):
        compare(golden, [answers[-1], *answers[:-1]], student.card, 1e-5)


@pytest.mark.slow
def test_a_service_that_is_too_busy_is_asked_again(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    folder_copy = write_workspace(tiny_base, tmp_path / "workspace", TEXTS[:3])
    params = load_params(folder_copy / "params.yaml")
    # At most four texts of all requests may wait: one of several requests at once is refused.
    narrow = {"max_texts": 4, "max_queue": 4, "threads": 1}
    params = params.model_copy(update={"serve": Serve.model_validate(params.serve.model_dump() | narrow)})
    tag = package(params, folder_copy).tag
    card = read_card(folder_copy / "data/serving")
    with served(tag, tmp_path / "serve.txt", 120) as address, ThreadPoolExecutor(8) as pool:
        texts = [" ".join(TEXTS[:20])] * 4
        answered = list(pool.map(lambda _: len(ask(address, card, texts, 4, 2_000_000)), range(40)))
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as response:
            body = response.read().decode()
    assert answered == [4] * 40
    assert re.search(r'potstill_refused_total{reason="full"} [1-9]', body)
