from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from potstill.artifacts import read_json, write_json, write_manifest
from potstill.inference.runtime import Student, Text
from potstill.paths import TEST_PROFILE
from potstill.serving import shadow as module
from potstill.serving.app import create_app, start
from potstill.serving.keys import Keys
from potstill.serving.launch import SHADOW_FOLDER
from potstill.serving.middleware import add_middleware
from potstill.serving.shadow import Shadow, start_shadow
from potstill.serving.telemetry import Metrics
from potstill.serving.watcher import AnsweredRequest
from tests.conftest import generate_rows
from tests.potstill.serving.folders import LABELS, flip_byte, write_profile, write_serving
from tests.potstill.serving.test_watcher import release

TEXTS: list[Text] = [text for text, _ in generate_rows(12)]


@pytest.fixture(scope="module")
def workspace(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("champion")
    write_serving(tiny_base, root / "data/serving")
    write_profile(root / "data/serving", TEXTS, root / TEST_PROFILE)
    return root


@pytest.fixture
def challenger(tiny_base: Path, tmp_path: Path) -> Path:
    """The same network with its two labels swapped and another temperature."""
    folder = write_serving(tiny_base, tmp_path / "challenger", variant="fp32")
    change(folder, labels=LABELS[::-1], temperature=1.0)
    return folder


def change(folder: Path, **card: Any) -> None:
    write_json(folder / "model.json", read_json(folder / "model.json") | card)
    write_manifest(folder)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def value(registry: CollectorRegistry, name: str) -> float | None:
    return registry.get_sample_value(f"potstill_shadow_{name}", {"model": "challenger"})


def answered_request(student: Student, texts: list[Text], seconds: float = 0.01) -> AnsweredRequest:
    return AnsweredRequest(
        "r", texts, student.predict_work(texts).rows, student.predict(texts), seconds, time.perf_counter()
    )


def test_a_challenger_answers_too_and_its_agreement_is_counted(workspace: Path, challenger: Path) -> None:
    champion = Student(workspace / "data/serving", 1)
    other = Student(challenger, 1)
    registry = CollectorRegistry()
    shadow = Shadow(other, 1.0, 9.0, registry, "challenger")
    shadow.start()
    request = answered_request(champion, TEXTS)
    shadow.observe(request)
    until(lambda: value(registry, "texts_total") == len(TEXTS))
    answers = other.predict(TEXTS)
    same = sum(a.label == b.label for a, b in zip(request.answers, answers, strict=True))  # type: ignore[union-attr]
    assert value(registry, "agreements_total") == same < len(TEXTS)
    expected = sum(
        abs(max(a.probabilities) - b.probabilities[other.card.labels.index(a.label)])  # type: ignore[union-attr, arg-type]
        for a, b in zip(request.answers, answers, strict=True)
    )
    assert value(registry, "difference_sum") == pytest.approx(expected)
    assert value(registry, "seconds_count") == 1
    assert value(registry, "riding") == 1
    shadow.close()


def test_users_only_see_the_champions_answers(
    workspace: Path, challenger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHADOW_FOLDER, str(challenger))
    served = release(workspace, shadow=1.0)
    metrics = Metrics()
    app = create_app(served, metrics)
    start(app, served, Student(served.folder, 1))
    with TestClient(add_middleware(app, served, Keys({}), metrics)) as client:
        answered = client.post("/v1/classify", json={"texts": TEXTS}).json()
        until(lambda: b'potstill_shadow_texts_total{model="challenger"} 12.0' in metrics.exposition())
    expected = Student(served.folder, 1).predict(TEXTS)
    assert [row["label"] for row in answered["predictions"]] == [row.label for row in expected]
    assert answered["model"]["candidate"] == served.candidate
    assert not [thread for thread in threading.enumerate() if thread.name == "shadow"]


def test_a_share_of_the_requests_is_queued_up_to_the_limit(workspace: Path, challenger: Path) -> None:
    registry = CollectorRegistry()
    champion = Student(workspace / "data/serving", 1)
    shadow = Shadow(Student(challenger, 1), 0.25, 9.0, registry, "challenger")
    shadow._random.seed(1)
    request = answered_request(champion, TEXTS[:1])
    for _ in range(400):  # the thread is not started, so all requests wait
        shadow.observe(request)
    assert len(shadow._queue) == module.WAITING
    assert (value(registry, "skipped_total") or 0) + module.WAITING == pytest.approx(100, abs=25)


@pytest.mark.parametrize(("seconds", "is_running"), [(0.011, True), (0.02, False)])
def test_a_challenger_that_slows_the_champion_is_dropped(
    workspace: Path, challenger: Path, seconds: float, is_running: bool, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    champion = Student(workspace / "data/serving", 1)
    other = Student(challenger, 1)
    is_working = threading.Event()
    may_finish = threading.Event()
    predict = other.predict

    def slow(texts: Any) -> Any:
        is_working.set()
        assert may_finish.wait(20)
        return predict(texts)

    other.predict = slow  # type: ignore[method-assign]
    shadow = Shadow(other, 1.0, 1.2, registry, "challenger")
    before = answered_request(champion, TEXTS[:1], 0.01)
    for _ in range(module.MIN_PAIRS):  # before the challenger works
        shadow.observe(before)
    shadow.start()
    assert is_working.wait(20)
    during = answered_request(champion, TEXTS[:1], seconds)
    for _ in range(module.MIN_PAIRS):
        shadow.observe(during)
    assert value(registry, "slowdown") == pytest.approx(seconds / 0.01)
    assert (not shadow._stopped, value(registry, "riding")) == (is_running, float(is_running))
    assert ("is dropped" in caplog.text) is not is_running
    may_finish.set()
    shadow.close()
    assert not shadow._queue or is_running


class Timed:
    """A challenger that never computes, and requests of the champion at chosen times."""

    def __init__(self, workspace: Path, challenger: Path) -> None:
        self.registry = CollectorRegistry()
        self.shadow = Shadow(Student(challenger, 1), 0.0, 1.2, self.registry, "challenger")
        self.request = answered_request(Student(workspace / "data/serving", 1), TEXTS[:1])

    def observe(self, seconds: float, *, at_work: bool) -> None:
        self.shadow._began = 10.0 if at_work else None
        self.shadow.observe(self.request._replace(seconds=seconds, began=11.0))


def test_a_change_of_the_load_does_not_drop_the_challenger(workspace: Path, challenger: Path) -> None:
    timed = Timed(workspace, challenger)
    for seconds in (0.05, 0.01):  # busy, then quiet, when few requests overlap with its work
        for number in range(module.MAX_PAIRS):
            timed.observe(seconds, at_work=False)
            if seconds == 0.05 or number % 4 == 0:
                timed.observe(seconds, at_work=True)
    assert not timed.shadow._stopped
    assert value(timed.registry, "slowdown") == 1.0


def test_a_request_that_is_slow_for_another_reason_does_not_drop_the_challenger(
    workspace: Path, challenger: Path
) -> None:
    timed = Timed(workspace, challenger)
    timed.shadow._periods.append((20.0, 30.0))
    for _ in range(module.MAX_PAIRS):
        timed.observe(0.01, at_work=False)
        timed.shadow.observe(timed.request._replace(seconds=0.01, began=25.0))
        timed.shadow.observe(
            timed.request._replace(seconds=15.0, began=11.0)
        )  # it began before the challenger's work and was delayed
    assert not timed.shadow._stopped


@pytest.mark.parametrize(("slow_pairs", "is_running"), [(55, True), (75, False)])
def test_chance_does_not_drop_the_challenger(
    workspace: Path, challenger: Path, slow_pairs: int, is_running: bool
) -> None:
    timed = Timed(workspace, challenger)
    for number in range(module.MIN_PAIRS):
        timed.observe(0.01, at_work=False)
        timed.observe(0.013 if number < slow_pairs else 0.009, at_work=True)
    assert value(timed.registry, "slowdown") == pytest.approx(1.3)
    assert timed.shadow._stopped is not is_running


def test_a_challenger_that_fails_is_dropped(
    workspace: Path, challenger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    shadow = Shadow(Student(challenger, 1), 1.0, 9.0, registry, "challenger")
    shadow.start()
    request = answered_request(Student(workspace / "data/serving", 1), TEXTS[:1])
    shadow.observe(request._replace(texts=[("a", "pair")]))
    until(lambda: value(registry, "riding") == 0)
    assert "failed and is dropped: the model classifies single texts" in caplog.text
    shadow.close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: change(folder, labels=["no", "yes"]), "answers another question"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no readable manifest"),
        (lambda folder: flip_byte(folder / "model.onnx"), "altered"),
        (lambda folder: shutil.rmtree(folder), "challenger"),
    ],
)
def test_an_invalid_challenger_does_not_affect_the_champion(
    workspace: Path,
    challenger: Path,
    damage: Callable[[Path], object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(challenger)
    monkeypatch.setenv(SHADOW_FOLDER, str(challenger))
    assert start_shadow(release(workspace, shadow=0.5), CollectorRegistry()) is None
    assert message in caplog.text
    caplog.clear()
    assert start_shadow(release(workspace), CollectorRegistry()) is None
    assert not caplog.text


def test_the_champion_does_not_shadow_itself(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SHADOW_FOLDER, str(workspace / "data/serving"))
    assert start_shadow(release(workspace, shadow=0.5), CollectorRegistry()) is None
    assert "holds the champion itself" in caplog.text


def test_a_challenger_that_cannot_be_loaded_does_not_affect_the_champion(
    workspace: Path, challenger: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room for a second model")

    served = release(workspace, shadow=1.0)
    metrics = Metrics()
    student = Student(served.folder, 1)
    app = create_app(served, metrics)
    monkeypatch.setenv(SHADOW_FOLDER, str(challenger))
    monkeypatch.setattr(module, "Student", fail)
    start(app, served, student)
    with TestClient(add_middleware(app, served, Keys({}), metrics)) as client:
        assert client.post("/v1/classify", json={"texts": TEXTS}).status_code == 200
    assert "the challenger is left out: no room for a second model" in caplog.text
    assert b"potstill_shadow" not in metrics.exposition()
