"""A Bento under plain `bentoml serve` whose worker is killed, and that is told to end while it is asked."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from potstill.config.params_file import load_params
from tasks.package import package
from tasks.smoke import is_ready, served
from tests.conftest import generate_rows
from tests.potstill.serving.folders import processes_with, write_workspace
from tests.potstill.serving.load import load

TEXTS = [text for text, _ in generate_rows(6)]


@pytest.fixture
def tag(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    place = write_workspace(tiny_base, tmp_path / "workspace", TEXTS)
    params = load_params(place / "params.yaml")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    logged = params.serve.model_copy(update={"access_log": True})
    return package(params.model_copy(update={"serve": logged}), place).tag


def test_a_killed_worker_is_replaced_and_every_request_that_has_begun_is_answered(tag: str, tmp_path: Path) -> None:
    log = tmp_path / "serve.txt"
    with served(tag, log, 120) as address:
        # Both name the tag: what was started here, and the worker that BentoML started for it.
        (first,) = [pid for pid in processes_with(tag) if psutil.Process(pid).ppid() == os.getpid()]
        (worker,) = psutil.Process(first).children()
        begin = time.monotonic()
        worker.kill()
        while not any(child.pid != worker.pid for child in psutil.Process(first).children()):
            assert time.monotonic() - begin < 3  # BentoML alone looks for it every 10 s
            time.sleep(0.05)
        while not is_ready(address):
            assert time.monotonic() - begin < 60  # what a worker imports takes long on a loaded machine
        _ended_under_load(tag, address, first, log)


def _ended_under_load(tag: str, address: str, first: int, log: Path) -> None:
    with load(address, {"texts": TEXTS}, clients=6, reconnecting=2) as seen:
        end = time.monotonic() + 60
        while seen.statuses[200] <= 20:  # by number and not by time: a loaded machine answers fewer in a second
            assert time.monotonic() < end
            time.sleep(0.05)
        os.kill(first, signal.SIGTERM)
        end = time.monotonic() + 60
        while processes_with(tag) and time.monotonic() < end:
            time.sleep(0.05)
        assert not processes_with(tag)
    # A line of the log is a request at its end: each has reached the client that sent it, and whole.
    begun = [line for line in log.read_text(encoding="utf-8").splitlines() if "POST /v1/classify" in line]
    assert set(seen.statuses) == {200}
    assert len(begun) == seen.statuses[200] > 20
    assert all(" 200 " in line for line in begun)
