"""Tests of a built and served Bento, by plain HTTP and by the usual clients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from potstill.artifacts import read_json, write_json, write_manifest
from potstill.compute.processes import free_port, start, stop
from potstill.config.params_file import load_params
from potstill.errors import SmokeError
from potstill.inference.runtime import Student, Text
from potstill.inference.window_store import ANSWERS, COUNTS
from potstill.paths import TEST_PROFILE
from potstill.serving.keys import FILE_VARIABLE, add_to_file, key_entry, new_key
from potstill.serving.launch import WATCH_FOLDER, serve_command
from potstill.serving.release import write_seal
from tasks.package import Packaged, package
from tasks.smoke import served
from tests.conftest import generate_rows
from tests.potstill.serving.clients import generate_client
from tests.potstill.serving.folders import LABELS, MAX_LENGTH, flip_byte, processes_with, write_profile, write_workspace

TEXTS = [text for text, _ in generate_rows(20)]


@dataclass(frozen=True)
class Server:
    """A Bento that is served at `address`."""

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
def packaged(slow: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packaged]:
    workspace = write_workspace(tiny_base, tmp_path_factory.mktemp("service") / "workspace", TEXTS)
    params = load_params(workspace / "params.yaml")
    limits = params.serve.model_copy(update={"max_texts": 8, "max_characters": 500, "max_body_bytes": 10_000})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(workspace.parent / "bentoml"))
        yield package(params.model_copy(update={"serve": limits}), workspace)


@pytest.fixture(scope="module")
def server(packaged: Packaged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(packaged.tag, tmp_path_factory.mktemp("log") / "serve.txt", 60) as address:
        yield Server(address, packaged, Student(packaged.path / "src/data/serving"))


@pytest.mark.slow
def test_classify_returns_the_students_predictions(server: Server) -> None:
    texts: list[Text] = [*TEXTS[:7], "good film " * MAX_LENGTH]
    answer = server.ask("/v1/classify", texts=texts)
    for prediction, expected in zip(answer["predictions"], server.student.predict(texts), strict=True):
        assert prediction == {
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


def test_predict_has_the_form_of_text_embeddings_inference(server: Server) -> None:
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


def test_predict_truncates_a_long_text_only_on_request(server: Server) -> None:
    long = "good film " * MAX_LENGTH
    status, answer = server.post("/predict", json.dumps({"inputs": long}).encode())
    assert (status, answer["error_type"]) == (413, "Validation")
    assert f"longer than {MAX_LENGTH} tokens" in answer["error"]
    assert len(server.ask("/predict", inputs=long, truncate=True)) == 2


def in_another_process(code: str) -> Any:
    """Run code in another process, not offline and with warnings, as users run clients; return its `result`."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", f"import json\n{code}\nprint(json.dumps(result))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_huggingface_hub_client(server: Server) -> None:
    (expected,) = server.student.predict([TEXTS[0]])
    everything, best = in_another_process(
        f"""
from huggingface_hub import InferenceClient
client = InferenceClient(model={server.address!r})
result = [client.text_classification({TEXTS[0]!r}), client.text_classification({TEXTS[0]!r}, top_k=1)]
"""
    )
    scores = dict(zip(LABELS, expected.probabilities, strict=True))
    assert {item["label"]: item["score"] for item in everything} == scores
    assert best == [{"label": expected.label, "score": max(expected.probabilities)}]


@pytest.mark.slow
def test_bentoml_client(server: Server) -> None:
    (expected,) = server.student.predict([TEXTS[0]])
    result = in_another_process(
        f"""
import bentoml
with bentoml.SyncHTTPClient({server.address!r}) as client:
    result = client.classify(texts=[{TEXTS[0]!r}])
"""
    )
    assert result["predictions"][0]["label"] == expected.label


def test_info(server: Server) -> None:
    info = server.get("/info")
    assert info == server.get("/")
    assert info["name"] == "potstill-movie-reviews"
    assert info["bento"] == server.packaged.tag
    assert info["model"]["labels"] == LABELS
    assert info["limits"] == {
        "max_texts": 8,
        "max_characters": 500,
        "max_body_bytes": 10_000,
        "max_queue": 512,
        "max_queue_seconds": 2.0,
        "max_tokens": MAX_LENGTH,
    }
    assert info["lineage"]["candidate"] == server.packaged.candidate
    assert info["lineage"]["verified"] == "bento"
    assert set(info["lineage"]["files"]) == {"model.onnx", "model.json", "tokenizer.json"}


def test_health_and_metrics(server: Server) -> None:
    server.ask("/v1/classify", texts=TEXTS[:3])
    for path in ("/livez", "/readyz", "/metrics"):
        with urllib.request.urlopen(server.address + path, timeout=10) as response:
            assert response.status == 200
            text = response.read().decode()
    counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(counts['potstill_request_seconds_count{endpoint="/v1/classify",status="200"}']) >= 1
    assert float(counts["potstill_batch_rows_total"]) >= 3
    assert counts["potstill_queue_texts"] == "0.0"


HEADERS = {"x-request-id", "server-timing", "x-model-version", "x-bento-tag", "x-lineage-sum"}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/schema.json", "/info", "/metrics", "/nowhere", "/predict"])
def test_every_response_has_the_headers(server: Server, path: str) -> None:
    import httpx

    answer = httpx.get(server.address + path, headers={"x-request-id": "me-1"})
    assert answer.headers.keys() >= HEADERS
    assert answer.headers["x-request-id"] == "me-1"
    assert answer.headers["x-bento-tag"] == server.packaged.tag
    if answer.status_code >= 400:
        assert answer.json()["request_id"] == "me-1"


def test_a_response_has_its_server_timing(server: Server) -> None:
    import httpx

    answer = httpx.post(server.address + "/v1/classify", json={"texts": TEXTS[:4]})
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(parts) == ["queue", "tokenize", "infer", "total"]
    spent = {name: float(value) for name, value in parts.items()}
    assert min(spent.values()) >= 0
    assert spent["queue"] + spent["tokenize"] + spent["infer"] <= spent["total"] + 0.1
    assert answer.headers["x-lineage-sum"] == server.get("/info")["lineage"]["sum"]


def test_concurrent_callers_get_their_own_answers(server: Server) -> None:
    expected = {text: row.probabilities for text, row in zip(TEXTS, server.student.predict(TEXTS), strict=True)}

    def ask(number: int) -> None:
        texts = [TEXTS[(number + step * 3) % len(TEXTS)] for step in range(1 + number % 5)]
        predictions = server.ask("/v1/classify", texts=texts)["predictions"]
        assert [list(row["probabilities"].values()) for row in predictions] == [expected[text] for text in texts]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(60)))


@pytest.mark.slow
def test_keys_protect_every_endpoint_of_the_real_service(packaged: Packaged, tmp_path: Path) -> None:
    import httpx

    key = new_key()
    file = tmp_path / "keys"
    add_to_file(file, key_entry("mine", key))
    with_key = {"authorization": f"Bearer {key}"}
    with served(packaged.tag, tmp_path / "serve.txt", 60, {FILE_VARIABLE: str(file)}) as address:
        for path in ("/livez", "/readyz"):
            assert httpx.get(address + path).status_code == 200
        for path in ("/metrics", "/schema.json", "/openapi.json", "/docs.json", "/info", "/", "/nowhere"):
            answer = httpx.get(address + path)
            assert (answer.status_code, answer.json()["error_type"]) == (401, "Unauthorized")
        for path in ("/v1/classify", "/predict", "/"):
            assert httpx.post(address + path, json={"texts": ["a"]}).status_code == 401
        assert httpx.get(address + "/schema.json", headers=with_key).status_code == 200
        assert httpx.post(address + "/v1/classify", json={"texts": ["a"]}, headers=with_key).status_code == 200
        result = in_another_process(
            f"""
from huggingface_hub import InferenceClient
import bentoml
client = InferenceClient(model={address!r}, token={key!r})
with bentoml.SyncHTTPClient({address!r}, token={key!r}) as bento:
    result = [client.text_classification("good film"), bento.classify(texts=["good film"])["predictions"]]
"""
        )
        assert [len(answers) for answers in result] == [2, 1]


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Run an OpenTelemetry collector; yield its address and the requests that it receives."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf"):
                received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


@pytest.mark.slow
def test_requests_are_traced_with_unchanged_answers_if_a_collector_is_configured(
    packaged: Packaged, tmp_path: Path, server: Server
) -> None:
    import httpx

    body = {"texts": TEXTS[:3]}
    trace = "0af7651916cd43dd8448eb211c80319c"
    with collector() as (endpoint, received):
        traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with served(packaged.tag, tmp_path / "serve.txt", 60, traces) as address:
            # Only BentoML's application has this page.
            assert httpx.get(address + "/docs.json").status_code == 200
            parent = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            answer = httpx.post(address + "/v1/classify", json=body, headers=parent)
            assert answer.json() == server.ask("/v1/classify", **body)
            assert answer.headers.keys() >= HEADERS
            assert "potstill_request_seconds" in httpx.get(address + "/metrics").text
            missing = httpx.get(address + "/nowhere")
            assert (missing.status_code, missing.json()["error_type"]) == (404, "Http")
        # The end of the service sends the remaining spans.
        spans = [
            span for request in received for r in request.resource_spans for s in r.scope_spans for span in s.spans
        ]
        resources = {
            a.key: a.value.string_value
            for request in received
            for r in request.resource_spans
            for a in r.resource.attributes
        }
    assert resources["service.name"] == packaged.tag.partition(":")[0]
    assert resources["service.version"] == packaged.tag.partition(":")[2]
    (request_span,) = [span for span in spans if span.kind == span.SPAN_KIND_SERVER and span.trace_id.hex() == trace]
    attributes = {attribute.key: attribute.value for attribute in request_span.attributes}
    assert attributes["http.status_code"].int_value == 200
    assert "/v1/classify" in request_span.name or attributes["http.target"].string_value == "/v1/classify"
    # Traces have no texts and no probes.
    assert not any(text.encode() in request.SerializeToString() for text in TEXTS for request in received)
    assert not any("readyz" in span.name for span in spans)
    assert httpx.get(server.address + "/docs.json").status_code == 404


@pytest.mark.slow
def test_the_service_does_not_start_without_its_file_of_keys(packaged: Packaged, tmp_path: Path) -> None:
    with (
        pytest.raises(SmokeError, match="which cannot be read"),
        served(packaged.tag, tmp_path / "serve.txt", 60, {FILE_VARIABLE: str(tmp_path / "none")}),
    ):
        pass


def test_openapi_describes_every_endpoint(server: Server) -> None:
    document = server.get("/openapi.json")
    assert set(document["paths"]) == {"/v1/classify", "/v1/explain", "/predict", "/info"}
    schemas = document["components"]["schemas"]
    for example in schemas["ClassifyTexts"]["examples"]:
        assert len(server.ask("/v1/classify", **example)["predictions"]) == 2
    for example in schemas["PredictTexts"]["examples"]:
        assert server.ask("/predict", **example)
    for example in schemas["ExplainText"]["examples"]:
        assert len(server.ask("/v1/explain", **example)["weights"]) == 5


def test_a_generated_client_works_with_every_endpoint(server: Server, tmp_path: Path) -> None:
    (expected,) = server.student.predict([TEXTS[0]])
    generate_client(server.get("/openapi.json"), tmp_path / "generated")
    classified, predicted, explained, refused, bento = in_another_process(
        f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from generated import Client
from generated.api.default import classify, explain, info, predict
from generated.models import ClassifyTexts, ExplainText, PredictTexts
with Client(base_url={server.address!r}, raise_on_unexpected_status=True) as client:
    result = [
        classify.sync(client=client, body=ClassifyTexts(texts=[{TEXTS[0]!r}])).to_dict(),
        [score.to_dict() for score in predict.sync(client=client, body=PredictTexts(inputs={TEXTS[0]!r}))],
        explain.sync(client=client, body=ExplainText(text={TEXTS[0]!r}, label="positive")).to_dict(),
        classify.sync_detailed(client=client, body=ClassifyTexts(texts=["a"] * 9)).parsed.to_dict(),
        info.sync(client=client).bento,
    ]
"""
    )
    scores = dict(zip(LABELS, expected.probabilities, strict=True))
    assert classified["predictions"][0] == {"label": expected.label, "probabilities": scores, "truncated": False}
    assert {score["label"]: score["score"] for score in predicted} == scores
    assert explained["label"] == "positive"
    assert refused["error_type"] == "TooManyTexts"
    assert bento == server.packaged.tag


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
        # Each endpoint only gets its own field, since the other would be unknown.
        fields = json.loads(body)
        own_field = "texts" if path == "/v1/classify" else "inputs"
        body = json.dumps({key: value for key, value in fields.items() if key in (own_field, "unknown")}).encode()
    actual, answer = server.post(path, body)
    assert actual == status
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
def test_a_request_over_a_limit_is_refused(server: Server, body: dict[str, Any], kind: str) -> None:
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


def test_a_wrong_method_is_refused(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get("/v1/classify")
    with caught.value as error:
        assert (error.code, json.load(error)["error_type"]) == (405, "Http")


@pytest.mark.slow
def test_a_stopped_service_writes_its_open_window(packaged: Packaged, tmp_path: Path) -> None:
    watch_folder = tmp_path / "watch"
    with served(packaged.tag, tmp_path / "log.txt", 60, {WATCH_FOLDER: str(watch_folder)}) as address:
        for start in (0, 8):
            body = json.dumps({"texts": TEXTS[start : start + 8]}).encode()
            request = urllib.request.Request(f"{address}/v1/classify", body, {"content-type": "application/json"})
            urllib.request.urlopen(request, timeout=10).close()
    (folder,) = watch_folder.iterdir()
    assert folder.name == packaged.candidate[:12]
    (counts,) = [json.loads(path.read_text()) for path in folder.iterdir() if path.name.endswith(COUNTS)]
    assert (counts["texts"], counts["bento"]) == (16, packaged.tag)
    assert (folder / "profile.json").exists()
    (answers,) = folder.glob(f"*{ANSWERS}")
    assert len(answers.read_text(encoding="utf-8").splitlines()) == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("watch", "needs an absolute path"),  # a relative path would be in the Bento
        ("gs://bucket/watch", "gs://bucket/watch needs the package gcsfs, which is not installed"),
    ],
)
def test_a_service_with_an_invalid_watch_location_does_not_start(
    packaged: Packaged, location: str, message: str
) -> None:
    environment = {**os.environ, WATCH_FOLDER: location}
    done = subprocess.run(
        serve_command(packaged.tag, "127.0.0.1", 0), env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("port", "free"), [(0, True), (3456, False)])
def test_port_0_is_any_free_port(packaged: Packaged, tmp_path: Path, port: int, free: bool) -> None:
    """Read the port from BentoML's configuration, as `bentoml serve` does."""
    shutil.copytree(packaged.path / "src", tmp_path / "src")
    settings = read_json(tmp_path / "src/service.json")
    settings["serve"]["port"] = port
    write_json(tmp_path / "src/service.json", settings)
    code = """
from bentoml._internal.configuration.containers import BentoMLContainer
from potstill.serving.service import Classifier
Classifier.inject_config()
print(BentoMLContainer.http.port.get())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path / "src", capture_output=True, text=True, timeout=120, check=True)
    chosen = int(done.stdout.split()[-1])
    assert (chosen not in (0, 3000)) if free else chosen == port
    assert serve_command("n:1", "127.0.0.1", 0)[-1] != "0"


def modified_bento(packaged: Packaged, home: Path, edit: Callable[[Path], None]) -> Path:
    """Write a sealed Bento with a modified model to a separate store."""
    bento = home / "bentos" / packaged.path.parent.name / packaged.path.name
    shutil.copytree(packaged.path, bento, ignore=shutil.ignore_patterns("__pycache__"))
    serving = bento / "src/data/serving"
    edit(serving)
    write_manifest(serving)
    write_profile(serving, list(TEXTS[:2]), bento / "src" / TEST_PROFILE)
    write_seal(bento)
    return bento


def _make_slow(serving: Path) -> None:
    """Add matrix products of 27 GFLOP to each call of the model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(serving / "model.onnx")
    square = np.eye(512, dtype=np.float32)
    constants = {"trips": np.array(100), "more": np.array(True), "square": square, "none": np.zeros(1, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, f"slow_{name}") for name, value in constants.items())
    whole = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [512, 512]) for name in ("before", "after")}
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "slow_square"], ["after"]),
            helper.make_node("Identity", ["so_far"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("so_far", TensorProto.BOOL, []),
            whole["before"],
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), whole["after"]],
    )
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "slow_logits"
    model.graph.node.extend(
        [
            helper.make_node("Loop", ["slow_trips", "slow_more", "slow_square"], ["slow_end"], body=body),
            helper.make_node("ReduceMax", ["slow_end"], ["slow_one"], keepdims=0),
            helper.make_node("Mul", ["slow_one", "slow_none"], ["slow_zero"]),
            helper.make_node("Add", ["slow_logits", "slow_zero"], ["logits"]),
        ]
    )
    onnx.save(model, serving / "model.onnx")


@pytest.mark.slow
def test_the_service_is_ready_only_after_the_warm_up(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    modified_bento(packaged, tmp_path, _make_slow)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    probes: list[httpx.Response] = []
    with (tmp_path / "log.txt").open("wb") as log:
        process = start(serve_command(packaged.tag, "127.0.0.1", port), stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not probes or probes[-1].status_code != 200:
            assert time.monotonic() < end
            with suppress(httpx.ConnectError):
                # The socket is open before the worker has imported what it needs.
                probes.append(httpx.get(f"{address}/readyz", timeout=30))
                assert httpx.get(f"{address}/livez", timeout=30).status_code == 200
        answer = httpx.post(f"{address}/v1/classify", json={"texts": TEXTS[:1]}, timeout=30)
        assert answer.status_code == 200
    finally:
        stop(process)
    assert len(probes) > 1
    for answer in probes[:-1]:
        assert (answer.status_code, answer.json()["error_type"]) == (503, "Unavailable")
        assert "readyz" in answer.json()["error"]


@pytest.mark.slow
def test_a_service_whose_warm_up_fails_says_why_and_ends(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more_tokens_than_positions(serving: Path) -> None:
        write_json(serving / "model.json", read_json(serving / "model.json") | {"max_length": 100})

    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    bento = modified_bento(packaged, tmp_path, more_tokens_than_positions)
    log = tmp_path / "log.txt"
    begin = time.monotonic()
    with pytest.raises(SmokeError), served(packaged.tag, log, 60):
        pass
    assert time.monotonic() - begin < 50  # the service ended before the time limit
    output = log.read_text(encoding="utf-8")
    assert "the model does not answer, so the service ends" in output
    assert "while running" in output  # part of onnxruntime's message
    assert "Traceback" not in output
    assert output.count("so the service ends") == 1
    assert not processes_with(str(bento))


@pytest.mark.slow
def test_a_worker_does_not_outlive_its_supervisor(packaged: Packaged, tmp_path: Path) -> None:
    log, port = tmp_path / "log.txt", free_port()
    with log.open("wb") as output:
        process = start(serve_command(packaged.tag, "127.0.0.1", port), stdout=output, stderr=output)
    try:
        end = time.monotonic() + 60
        while not (workers := psutil.Process(process.pid).children()):
            assert time.monotonic() < end
    finally:
        process.kill()
        process.wait()
    (worker,) = workers
    try:
        worker.wait(30)
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("src/data/serving/model.onnx", "flip", "altered"),
        ("src/potstill/serving/predict_scores.py", "flip", "altered"),
        ("env/python/requirements.txt", "flip", "altered"),
        ("src/data/serving/extra.txt", "add", "not in the manifest"),
        ("manifest.json", "remove", "no readable manifest"),
    ],
)
def test_an_altered_bento_refuses_to_start(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: str, message: str
) -> None:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    altered = tmp_path / "bentos" / packaged.path.parent.name / packaged.path.name
    shutil.copytree(packaged.path, altered, ignore=shutil.ignore_patterns("__pycache__"))
    if change == "flip":
        # Python files are edited in a docstring, so that they stay valid.
        flip_byte(altered / name) if not name.endswith(".py") else _edit_docstring(altered / name)
    elif change == "add":
        (altered / name).write_text("x")
    else:
        (altered / name).unlink()
    command = serve_command(packaged.tag, "127.0.0.1", 0)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert message in output
    assert "Traceback" not in output
    assert not processes_with(str(altered))


def _edit_docstring(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("scores", "scöres", 1), encoding="utf-8")
