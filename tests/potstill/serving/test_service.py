"""The built Bento, really served, asked by plain HTTP and by the clients people use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from potstill.config import load_params
from potstill.serving.launch import serve_command
from potstill.serving.runtime import Student, Text
from tasks.package import Packaged, package
from tasks.smoke import served
from tests.conftest import generate_rows
from tests.potstill.serving.folders import LABELS, MAX_LENGTH, flip_byte, processes_with, write_workspace

TEXTS = [text for text, _ in generate_rows(20)]


@dataclass(frozen=True)
class Server:
    """A Bento that answers at `address`."""

    address: str
    packaged: Packaged
    student: Student

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=10) as response:
            return json.load(response)

    def post(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
        request = urllib.request.Request(self.address + path, body, {"content-type": kind})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def ask(self, path: str, **body: Any) -> Any:
        status, answer = self.post(path, json.dumps(body).encode())
        assert status == 200, answer
        return answer


@pytest.fixture(scope="module")
def packaged(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packaged]:
    place = write_workspace(tiny_base, tmp_path_factory.mktemp("service") / "workspace", TEXTS)
    params = load_params(place / "params.yaml")
    limits = params.serve.model_copy(update={"max_texts": 8, "max_characters": 500, "max_body_bytes": 10_000})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place.parent / "bentoml"))
        yield package(params.model_copy(update={"serve": limits}), place)


@pytest.fixture(scope="module")
def server(packaged: Packaged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(packaged.tag, tmp_path_factory.mktemp("log") / "serve.txt", 60) as address:
        yield Server(address, packaged, Student(packaged.path / "src/data/serving"))


def test_classify_answers_as_the_student_does(server: Server) -> None:
    texts: list[Text] = [*TEXTS[:7], "good film " * MAX_LENGTH]
    answer = server.ask("/v1/classify", texts=texts)
    for found, expected in zip(answer["predictions"], server.student.predict(texts), strict=True):
        assert found == {
            "label": expected.label,
            "probabilities": dict(zip(LABELS, expected.probabilities, strict=True)),
            "truncated": expected.truncated,
        }
    assert answer["predictions"][-1]["truncated"]
    assert answer["model"] == {
        "bento": server.packaged.tag,
        "candidate": server.packaged.candidate,
        "variant": "int8",
    }


def test_predict_answers_as_text_embeddings_inference_does(server: Server) -> None:
    (expected,) = server.student.predict([TEXTS[0]])
    scores = dict(zip(LABELS, expected.probabilities, strict=True))
    best_first = sorted(({"label": k, "score": v} for k, v in scores.items()), key=lambda item: -float(item["score"]))
    assert server.ask("/predict", inputs=TEXTS[0]) == best_first
    assert server.ask("/", inputs=TEXTS[0]) == best_first
    assert server.ask("/predict", inputs=TEXTS[:1]) == [best_first]
    assert server.ask("/predict", inputs=[TEXTS[:1], TEXTS[1:2]])[0] == best_first
    assert [len(scores) for scores in server.ask("/predict", inputs=TEXTS[:3])] == [2, 2, 2]
    raw = server.ask("/predict", inputs=TEXTS[0], raw_scores=True)
    assert sorted(item["score"] for item in raw) == sorted(expected.logits)


def test_predict_cuts_a_long_text_only_when_asked_to(server: Server) -> None:
    long = "good film " * MAX_LENGTH
    status, answer = server.post("/predict", json.dumps({"inputs": long}).encode())
    assert (status, answer["error_type"]) == (413, "Validation")
    assert f"longer than {MAX_LENGTH} tokens" in answer["error"]
    assert len(server.ask("/predict", inputs=long, truncate=True)) == 2


def in_another_process(code: str) -> Any:
    """What `code` leaves in `found`. Clients meet the service as a user has them: not offline, with their warnings."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", f"import json\n{code}\nprint(json.dumps(found))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_huggingface_hub_client(server: Server) -> None:
    (expected,) = server.student.predict([TEXTS[0]])
    everything, best = in_another_process(
        f"""
from huggingface_hub import InferenceClient
client = InferenceClient(model={server.address!r})
found = [client.text_classification({TEXTS[0]!r}), client.text_classification({TEXTS[0]!r}, top_k=1)]
"""
    )
    scores = dict(zip(LABELS, expected.probabilities, strict=True))
    assert {item["label"]: item["score"] for item in everything} == scores
    assert best == [{"label": expected.label, "score": max(expected.probabilities)}]


def test_bentoml_client(server: Server) -> None:
    (expected,) = server.student.predict([TEXTS[0]])
    found = in_another_process(
        f"""
import bentoml
with bentoml.SyncHTTPClient({server.address!r}) as client:
    found = client.classify(texts=[{TEXTS[0]!r}])
"""
    )
    assert found["predictions"][0]["label"] == expected.label


def test_info(server: Server) -> None:
    info = server.get("/info")
    assert info == server.get("/")
    assert info["name"] == "potstill-movie-reviews"
    assert info["bento"] == server.packaged.tag
    assert info["model"]["labels"] == LABELS
    assert info["limits"] == {"max_texts": 8, "max_characters": 500, "max_body_bytes": 10_000, "max_tokens": MAX_LENGTH}
    assert info["lineage"]["candidate"] == server.packaged.candidate
    assert info["lineage"]["verified"] == "bento"
    assert set(info["lineage"]["files"]) == {"model.onnx", "model.json", "tokenizer.json"}


def test_health_and_metrics(server: Server) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        with urllib.request.urlopen(server.address + path, timeout=10) as response:
            assert response.status == 200


def test_openapi_describes_every_endpoint(server: Server) -> None:
    described = server.get("/openapi.json")
    assert set(described["paths"]) == {"/v1/classify", "/predict", "/info"}
    schemas = described["components"]["schemas"]
    for example in schemas["ClassifyTexts"]["examples"]:
        assert len(server.ask("/v1/classify", **example)["predictions"]) == 2
    for example in schemas["PredictRequest"]["examples"]:
        assert server.ask("/predict", **example)


@pytest.mark.parametrize("path", ["/v1/classify", "/predict"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 5000, 400),
        (b'{"texts": ["\xff"]}', 400),
        (b'{"texts": ["\\ud800"], "inputs": "\\ud800"}', 400),
        (b"null", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"texts": [], "inputs": []}', 422),
        (b'{"texts": [], "inputs": [[]]}', 422),
        (b'{"texts": "a", "inputs": 1}', 422),
        (b'{"texts": [1], "inputs": [1]}', 422),
        (b'{"texts": [NaN], "inputs": [NaN]}', 422),
        (b'{"texts": [null], "inputs": null}', 422),
        (b'{"texts": ["a"], "inputs": "a", "unknown": 1}', 422),
        (b'{"texts": [["a", "b"]], "inputs": [["a", "b"]]}', 422),
        (b'{"texts": [["a", "b", "c"]], "inputs": [["a", "b", "c"]]}', 422),
    ],
)
def test_a_bad_body_is_the_callers_error(server: Server, path: str, body: bytes, status: int) -> None:
    if body.startswith(b"{") and status == 422 and body != b"{}":
        # One body for both endpoints would have an unknown field in each.
        both = json.loads(body)
        ours = "texts" if path == "/v1/classify" else "inputs"
        body = json.dumps({key: value for key, value in both.items() if key in (ours, "unknown")}).encode()
    found, answer = server.post(path, body)
    assert found == status
    assert set(answer) == {"error", "error_type", "request_id"}
    assert "http" not in answer["error"]
    assert "Traceback" not in answer["error"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"texts": ["a"] * 9}, "TooManyTexts"),
        ({"texts": ["a" * 501]}, "TextTooLong"),
        ({"texts": ["a" * 10_000]}, "BodyTooLarge"),
    ],
)
def test_over_a_limit(server: Server, body: dict[str, Any], kind: str) -> None:
    status, answer = server.post("/v1/classify", json.dumps(body).encode())
    assert (status, answer["error_type"]) == (413, kind)


def test_a_body_without_declared_length_is_counted_while_it_arrives(server: Server) -> None:
    import httpx

    chunks = (b" " * 1000 for _ in range(100))
    headers = {"content-type": "application/json"}
    answer = httpx.post(server.address + "/v1/classify", content=chunks, headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (413, "BodyTooLarge")


@pytest.mark.parametrize("kind", ["text/plain", "application/vnd.bentoml+pickle", "application/x-www-form-urlencoded"])
def test_other_formats_are_refused(server: Server, kind: str) -> None:
    status, answer = server.post("/v1/classify", b'{"texts": ["a"]}', kind)
    assert (status, answer["error_type"]) == (415, "MediaType")


def test_a_wrong_method(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get("/v1/classify")
    with caught.value as error:
        assert (error.code, json.load(error)["error_type"]) == (405, "Http")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("src/data/serving/model.onnx", "flip", "altered"),
        ("src/potstill/serving/scores.py", "flip", "altered"),
        ("env/python/requirements.txt", "flip", "altered"),
        ("src/data/serving/extra.txt", "add", "not in the manifest"),
        ("manifest.json", "remove", "no readable manifest"),
    ],
)
def test_an_altered_bento_refuses_to_start(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: str, said: str
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    altered = tmp_path / "bentos" / packaged.path.parent.name / packaged.path.name
    shutil.copytree(packaged.path, altered, ignore=shutil.ignore_patterns("__pycache__"))
    if change == "flip":
        # At the start of a line of Python, so that it is still Python: in a docstring.
        flip_byte(altered / name) if not name.endswith(".py") else _edit_docstring(altered / name)
    elif change == "add":
        (altered / name).write_text("x")
    else:
        (altered / name).unlink()
    command = serve_command(packaged.tag, "127.0.0.1", 0)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert said in output
    assert "Traceback" not in output
    assert not processes_with(str(altered))


def _edit_docstring(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("dialects", "diàlects", 1), encoding="utf-8")
