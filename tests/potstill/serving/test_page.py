"""Tests of the page at / in a real browser that can reach nothing but the service."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn

from potstill.config.serving_params import Serve
from potstill.inference.occlusion import word_spans
from potstill.inference.runtime import Student, read_card
from potstill.serving.app import PAGE, create_app, start
from potstill.serving.keys import VARIABLE, Keys, key_entry, new_key
from potstill.serving.middleware import add_middleware
from potstill.serving.release import Release, Settings
from potstill.serving.telemetry import Metrics
from tests.potstill.serving.folders import write_serving, write_span_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@contextmanager
def service(folder: Path, keys: Keys = Keys({}), **serve: Any) -> Iterator[str]:  # noqa: B008
    release = Release(folder, Settings(name="n", serve=Serve(**serve)), read_card(folder), "n:1", False, "sum", {})
    metrics = Metrics()
    app = create_app(release, metrics)
    start(app, release, Student(folder, 1))
    config = uvicorn.Config(
        add_middleware(app, release, keys, metrics), log_level="critical", lifespan="off", loop="asyncio", ws="none"
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class Page(HTMLParser):
    """The attributes and texts of a page's elements with an id, and its marked words."""

    VOID = ("meta", "link", "input", "br")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.text: dict[str, str] = {}
        self.marks: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = dict(attrs).get("id")
        if name:
            self.attributes[name], self.text[name] = dict(attrs), ""
        if tag == "mark":
            self.marks.append("")
        if tag not in self.VOID:
            self._open.append((tag, name))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, name in self._open:
            if name:
                self.text[name] += data
        if self._open and self._open[-1][0] == "mark":
            self.marks[-1] += data


def load_page(address: str, profile: Path, **fields: str) -> Page:
    """Load the page with a link that fills its fields, and return it after it has shown the answer."""
    fragment = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=20000", "--dump-dom",
        f"{address}/#{fragment}",
    ]  # fmt: skip
    return Page(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


def test_the_page_loads_nothing_from_other_sites() -> None:
    text = PAGE.decode()
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", text.replace("// ", ""))
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,"]


@pytest.mark.slow
@needs_browser
def test_a_text_is_answered_and_explained(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving")
    text = "😀 a superb <img src=x onerror=alert(1)> film & story"
    with service(folder) as address:
        with urllib.request.urlopen(urllib.request.Request(address, headers={"accept": "text/html"})) as answer:
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        page = load_page(address, tmp_path / "profile", text=text)
    (prediction,) = Student(folder, 1).predict([text])
    assert page.text["said"] == prediction.label
    assert page.text["error"] == ""
    bars = page.text["bars"]
    for label, share in zip(("negative", "positive"), prediction.probabilities, strict=True):
        assert label in bars
        assert f"{share:.4f}" in bars
    assert page.text["text"] == text
    assert page.marks == [text[span.start : span.end] for span in word_spans(text, 31)]
    assert "n:1" in page.text["card"]
    assert "max_queue_seconds" in page.text["limits"]
    assert page.text["times"].startswith("queue ")


@pytest.mark.slow
@needs_browser
def test_a_pair_has_two_fields_and_both_are_explained(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving", pair=True)
    with service(folder) as address:
        page = load_page(address, tmp_path / "profile", text="a superb film", second="dull story")
    assert "hidden" not in page.attributes["second-row"]
    assert page.marks == ["a", "superb", "film", "dull", "story"]


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("task", ["token_classification", "question_answering"])
def test_answer_spans_are_marked_in_the_text(tiny_base: Path, tmp_path: Path, task: str) -> None:
    folder = write_span_model(tiny_base, tmp_path / "serving", task)
    text = "the doctor and the village story"
    student = Student(folder, 1)
    with service(folder) as address:
        if task == "token_classification":
            page = load_page(address, tmp_path / "profile", text=text)
            spans = [entity.text for entity in student.tag([text])[0].entities]
        else:
            page = load_page(address, tmp_path / "profile", text="the house", second=text)
            (reply,) = student.answer([("the house", text)])
            assert reply.answer is not None
            assert reply.answer in page.text["said"]
            spans = [reply.answer]
    assert spans
    assert page.marks == spans


@pytest.mark.slow
@needs_browser
def test_the_page_asks_for_a_key(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving")
    keys = Keys.read({VARIABLE: key_entry("mine", new_key())})
    with service(folder, keys) as address:
        page = load_page(address, tmp_path / "profile", text="a film")
    assert "hidden" not in page.attributes["key-row"]
    assert "an API key is needed" in page.text["error"]
    assert "n:1" not in page.text["card"]


def test_the_page_can_be_switched_off(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_serving(tiny_base, tmp_path / "serving")
    with service(folder, page=False) as address:
        request = urllib.request.Request(address, headers={"accept": "text/html"})
        with urllib.request.urlopen(request) as answer:
            assert answer.headers["content-type"] == "application/json"
