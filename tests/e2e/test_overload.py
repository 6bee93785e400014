"""A served Bento that is asked far more than it can compute: it refuses in time, and is itself again at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from potstill.config.params_file import load_params
from potstill.config.serving_params import Serve
from tasks.package import package
from tasks.smoke import served
from tests.conftest import generate_rows
from tests.potstill.serving.folders import write_workspace
from tests.potstill.serving.load import load

TEXTS = [" ".join([text] * 3) for text, _ in generate_rows(16)]
# How long it is asked too much; POTSTILL_OVERLOAD_SECONDS=60 for the whole of it.
OVERLOAD_SECONDS = float(os.environ.get("POTSTILL_OVERLOAD_SECONDS", "5"))
LIMITS = {"threads": 1, "max_texts": 16, "max_queue": 64, "max_queue_seconds": 0.5}


@pytest.fixture(scope="module")
def address(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = write_workspace(tiny_base, tmp_path_factory.mktemp("overload") / "workspace", TEXTS)
    params = load_params(place / "params.yaml")
    limits = Serve.model_validate(params.serve.model_dump() | LIMITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place.parent / "bentoml"))
        tag = package(params.model_copy(update={"serve": limits}), place).tag
        with served(tag, place.parent / "serve.txt", 120) as address:
            yield address


def test_far_too_many_requests(address: str) -> None:
    # Ten times as many texts under way as may wait.
    with load(address, {"texts": TEXTS}, clients=40, reconnecting=8, pause_seconds=0) as seen:
        time.sleep(OVERLOAD_SECONDS)
    assert seen.failures == []
    assert set(seen.statuses) <= {200, 429, 503}
    assert seen.statuses[200] > 10
    assert seen.statuses[429] > 0
    # What is taken in has waited no longer than it may; the rest of a request's time is its computing.
    waits = sorted(seen.queued)
    assert waits[int(0.99 * (len(waits) - 1))] <= 1000 * float(LIMITS["max_queue_seconds"])
    begin = time.monotonic()
    while (answer := httpx.post(f"{address}/v1/classify", json={"texts": TEXTS[:1]}, timeout=5)).status_code != 200:
        assert time.monotonic() - begin < 5
    assert time.monotonic() - begin < 5
    assert answer.json()["predictions"]
    with load(address, {"texts": TEXTS[:1]}, clients=1) as calm:
        time.sleep(1)
    assert (set(calm.statuses), calm.failures) == ({200}, [])


def test_a_refusal_says_when_to_come_back(address: str) -> None:
    with load(address, {"texts": TEXTS}, clients=16, pause_seconds=0):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            answer = httpx.post(f"{address}/v1/classify", json={"texts": TEXTS}, timeout=30)
            if answer.status_code == 429:
                break
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error_type"] == "Overloaded"
