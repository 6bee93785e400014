"""Whatever is sent to the served Bento, it answers in the caller's terms: never a 5xx, never a word of its insides."""

from __future__ import annotations

import json
import os
import pickle
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from potstill.config.params_file import load_params
from potstill.serving.app import ARRIVING_BYTES
from tasks.package import package
from tasks.smoke import served
from tests.conftest import generate_rows
from tests.potstill.serving.folders import write_workspace

TEXTS = [text for text, _ in generate_rows(6)]
# Cases that are generated from the OpenAPI description; POTSTILL_FUZZ_CASES=10000 for the whole of it.
CASES = int(os.environ.get("POTSTILL_FUZZ_CASES", "150"))
PATHS = ("/v1/classify", "/predict")
JSON = {"content-type": "application/json"}
SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    """A Bento that answers."""

    address: str
    max_characters: int
    max_body_bytes: int

    def post(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        return httpx.post(self.address + path, content=body, headers=headers or JSON, timeout=SECONDS)


@pytest.fixture(scope="module")
def server(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = write_workspace(tiny_base, tmp_path_factory.mktemp("hostile") / "workspace", TEXTS)
    params = load_params(place / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place.parent / "bentoml"))
        tag = package(params, place).tag
        with served(tag, place.parent / "serve.txt", 120) as address:
            yield Server(address, params.serve.max_characters, params.serve.max_body_bytes)
    said = (place.parent / "serve.txt").read_text(encoding="utf-8", errors="replace")
    assert "Traceback" not in said  # not in the log either: nothing here was a defect


def assert_typed(answer: httpx.Response) -> dict[str, Any]:
    """The answer is one of the service: below 500, and an error in its typed form."""
    assert answer.status_code < 500, answer.text
    body: Any = answer.json()
    if answer.status_code >= 400:
        assert set(body) == {"error", "error_type", "request_id"}
        for word in ("Traceback", "http://", "https://", "pydantic", 'File "', "site-packages"):
            assert word not in answer.text
    return body  # type: ignore[no-any-return]


def bodies(texts: Any) -> dict[str, bytes]:
    """The same texts in the form of each endpoint."""
    return {
        "/v1/classify": json.dumps({"texts": texts}).encode(),
        "/predict": json.dumps({"inputs": texts, "truncate": True}).encode(),
    }


def deep(opening: bytes, closing: bytes, depth: int) -> bytes:
    return b'{"texts": ' + opening * depth + b'"a"' + closing * depth + b"}"


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "no end": b'{"texts": ["a"',
    "a comment": b'{"texts": ["a"] /* more */}',
    "single quotes": b"{'texts': ['a']}",
    "a comma at the end": b'{"texts": ["a"],}',
    "two documents": b'{"texts": ["a"]}{"texts": ["a"]}',
    "a byte order mark": b'\xef\xbb\xbf{"texts": ["a"]}',
    "latin-1": '{"texts": ["café"]}'.encode("latin-1"),
    "utf-16": '{"texts": ["a"]}'.encode("utf-16"),
    "an overlong form": b'{"texts": ["\xc0\xaf"]}',
    "a cut character": b'{"texts": ["\xf0\x9f\x98"]}',
    "an encoded surrogate": b'{"texts": ["\xed\xa0\x80"]}',
    "half a surrogate pair": b'{"texts": ["\\ud83d"]}',
    "a control character": b'{"texts": ["\x01"]}',
    "a wrong escape": b'{"texts": ["\\x41"]}',
    "nothing but zeros": b"\0" * 1000,
    "arrays without end": b"[" * 100_000,
    "objects without end": b'{"a":' * 100_000,
    "deep arrays": deep(b"[", b"]", 50_000),
    "deep objects": deep(b'{"a":', b"}", 50_000),
}
WRONG: dict[str, bytes] = {
    "null": b"null",
    "a number": b"1",
    "a long number": b"9" * 100_000,
    "a large exponent": b'{"texts": [1e999999999]}',
    "NaN": b'{"texts": NaN, "inputs": NaN}',
    "NaN inside": b'{"texts": [NaN], "inputs": [NaN]}',
    "Infinity": b'{"texts": [-Infinity], "inputs": [Infinity]}',
    "a truth": b'{"texts": [true], "inputs": [true]}',
    "an object for a text": b'{"texts": [{"a": 1}], "inputs": [{"a": 1}]}',
    "a text for the list": b'{"texts": "a", "inputs": 1.5}',
    "no text": b'{"texts": [], "inputs": []}',
    "nothing": b"{}",
    "a field of Python's": b'{"texts": ["a"], "inputs": "a", "__class__": "a"}',
    "many fields": ("{" + ", ".join(f'"{number}": 1' for number in range(20_000)) + "}").encode(),
    "a field as long as the body": b'{"' + b"k" * 500_000 + b'": 1}',
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_json(server: Server, path: str, name: str) -> None:
    answer = server.post(path, MALFORMED[name])
    assert assert_typed(answer)["error_type"] == "MalformedJson"
    assert answer.status_code == 400


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", WRONG)
def test_what_is_json_of_another_kind(server: Server, path: str, name: str) -> None:
    answer = server.post(path, WRONG[name])
    assert_typed(answer)
    assert answer.status_code in (400, 422)
    assert len(answer.content) < 2000  # what was sent is not sent back


def test_a_field_that_is_there_twice_has_one_meaning(server: Server) -> None:
    """JSON leaves it open; here the last one counts, as in every common parser, so that no check sees another value."""
    found = assert_typed(server.post("/v1/classify", b'{"texts": ["a"], "texts": ["a", "b"]}'))
    assert len(found["predictions"]) == 2


ODD: dict[str, str] = {
    "nothing": "",
    "a space": " ",
    "NUL": "a\0b",
    "NULs": "\0" * 1000,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 200,
    "combining marks": "a" + "\u0301" * 10_000,
    "right to left": "\u202e" + "שלום עולם" * 200 + "\u202c",
    "zero width": "go\u200bod\u200d fi\ufefflm" * 300,
    "no-break spaces": "a\u00a0\u2003\u3000b",
    "line ends": "a\r\n\u2028\u2029\x0b\x0c\x85b",
    "private and not a character": "\ue000\uffff\U0010ffff",
    "astral": "𝔤𝔬𝔬𝔡" * 500,
    "Chinese": "这部电影非常好看" * 500,
    "Hangul": "한국어" * 500,
    "special tokens": "[CLS] [SEP] [MASK] [PAD] [UNK]" * 50,
    "markup": "<script>alert(1)</script>" * 50,
    "a format": "%s%n{0}{{}}${jndi:ldap://x}" * 50,
    "SQL": "'; drop table runs; --",
    "one word": "a" * 19_999,
    "digits": "7" * 19_999,
    "punctuation": "!?.,;" * 3_999,
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_text_is_a_text(server: Server, name: str) -> None:
    for path, body in bodies([ODD[name], "a good film"]).items():
        answer = server.post(path, body)
        assert answer.status_code == 200, answer.text
    # It changes nothing for its neighbour.
    alone, both = (
        server.post("/v1/classify", json.dumps({"texts": texts}).encode()).json()["predictions"][-1]["probabilities"]
        for texts in (["a good film"], [ODD[name], "a good film"])
    )
    assert alone == pytest.approx(both, abs=1e-5)


def test_no_odd_text_takes_much_longer_than_its_size_does(server: Server) -> None:
    plain = " ".join(TEXTS * 200)

    def seconds(text: str) -> float:
        body, taken = json.dumps({"texts": [text]}).encode(), []
        for _ in range(5):
            begin = time.perf_counter()
            assert server.post("/v1/classify", body).status_code == 200
            taken.append(time.perf_counter() - begin)
        return min(taken)

    for name, text in ODD.items():
        # 50 ms: a request costs some time whatever is in it, and machines are shared.
        assert seconds(text) < 5 * seconds(plain[: max(len(text), 200)]) + 0.05, name


def test_one_text_of_a_megabyte_without_a_space(server: Server) -> None:
    begin = time.monotonic()
    for path, body in bodies(["a" * 1_000_000]).items():
        answer = server.post(path, body)
        assert (answer.status_code, assert_typed(answer)["error_type"]) == (413, "TextTooLong")
    assert time.monotonic() - begin < 5  # refused before it is tokenized


@pytest.mark.parametrize(
    "kind",
    ["application/vnd.bentoml+pickle", "application/octet-stream", "application/x-pickle", "text/plain", "", "a/b/c"],
)
def test_pickles_and_other_formats_are_refused_unread(server: Server, kind: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch /tmp/potstill-was-here",)

    for path in PATHS:
        answer = server.post(path, pickle.dumps(Evil()), {"content-type": kind})
        assert (answer.status_code, assert_typed(answer)["error_type"]) == (415, "MediaType")
    assert not Path("/tmp/potstill-was-here").exists()


def test_a_pickle_that_says_it_is_json(server: Server) -> None:
    for extra in ({}, {"payload-container": "pickle", "payload-meta": "{}"}):
        answer = server.post("/v1/classify", pickle.dumps({"texts": ["a"]}), JSON | extra)
        assert (answer.status_code, assert_typed(answer)["error_type"]) == (400, "MalformedJson")


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_not_taken_in(server: Server, declared: bool) -> None:
    size = server.max_body_bytes + 1
    content: Any = b" " * size if declared else (b" " * 50_000 for _ in range(size // 50_000 + 1))
    answer = httpx.post(server.address + "/v1/classify", content=content, headers=JSON, timeout=SECONDS)
    assert (answer.status_code, assert_typed(answer)["error_type"]) == (413, "BodyTooLarge")


RAW: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a chunk of no size": b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 20\r\n\r\n{}",
    "a length below zero": b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n{}",
    "a length that is no number": b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-length: \xd9\xa3\r\n\r\n{}",
    "a header without end": b"GET /info HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
    "a path of bytes": b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
    "a path outside": b"GET /../../etc/passwd HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    "half a body": b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b'content-length: 100\r\n\r\n{"texts"',
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_hardly_http(server: Server, name: str) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        with suppress(OSError):  # it may have hung up by now
            connection.sendall(RAW[name])
            connection.shutdown(socket.SHUT_WR)
        said = b""
        while part := _received(connection):
            said += part
    assert b"Traceback" not in said
    assert not said.startswith(b"HTTP/1.1 5")
    assert b"root:" not in said
    assert httpx.get(server.address + "/readyz", timeout=10).status_code == 200


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:  # a server may also hang up on this
        return b""


def test_a_head_without_end_is_not_held(server: Server) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /info HTTP/1.1\r\nhost: a\r\n")
        with pytest.raises(OSError, match=r"reset|pipe"):
            for _ in range(1000):
                connection.sendall(b"x: y\r\n" * 2000)
    assert httpx.get(server.address + "/readyz", timeout=10).status_code == 200


def test_bodies_that_never_end_hold_a_bounded_share_of_the_memory(server: Server) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    size = server.max_body_bytes
    head = (
        b"POST /v1/classify HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % size
    )
    with ExitStack() as stack:
        for _ in range(ARRIVING_BYTES // size + 8):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            connection.sendall(head + b" " * (size - 1000))
        assert httpx.get(server.address + "/readyz", timeout=10).status_code == 200
        end = time.monotonic() + 10
        body = json.dumps({"texts": TEXTS}).encode().ljust(size - 1000)
        # Until the server has come to read what was sent before, there is room.
        while (answer := server.post("/v1/classify", body)).status_code == 200:
            assert time.monotonic() < end
        assert (answer.status_code, assert_typed(answer)["error_type"]) == (429, "Overloaded")
    end = time.monotonic() + 10
    while server.post("/v1/classify", json.dumps({"texts": TEXTS}).encode()).status_code != 200:
        assert time.monotonic() < end


@pytest.mark.timeout(60 + CASES)
def test_cases_generated_from_the_description(server: Server) -> None:
    """What the OpenAPI says is taken is answered as it says; what it does not is refused in the typed form."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    conformance = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
    schema = schemathesis.openapi.from_url(server.address + "/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    kinds = [(one, mode) for one in operations for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]
    # What takes no body has one case.
    kinds = [(one, mode) for one, mode in kinds if one.method == "post"]
    checked = settings(
        max_examples=-(-CASES // len(kinds)), deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    seen = 0

    for operation, mode in kinds:

        @checked
        @given(case=operation.as_strategy(generation_mode=mode))
        def asked(case: Any) -> None:
            nonlocal seen
            seen += 1
            answer = case.call(timeout=SECONDS)
            assert answer.status_code < 500, case.as_curl_command()
            if answer.status_code >= 400:
                assert set(answer.json()) == {"error", "error_type", "request_id"}, case.as_curl_command()
            case.validate_response(answer, checks=conformance)

        asked()
    print(f"{seen} cases")
    assert seen >= CASES // 2  # a description has only so many different cases
    assert httpx.get(server.address + "/readyz", timeout=10).status_code == 200


def test_after_all_that_it_answers_as_before(server: Server) -> None:
    with urllib.request.urlopen(server.address + "/info", timeout=10) as response:
        assert json.load(response)["limits"]["max_body_bytes"] == server.max_body_bytes
    found = assert_typed(server.post("/v1/classify", json.dumps({"texts": TEXTS}).encode()))
    assert len(found["predictions"]) == len(TEXTS)
