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
from potstill.serving.front import front
from potstill.serving.keys import Keys
from potstill.serving.launch import SHADOW_FOLDER
from potstill.serving.shadow import Shadow, shadow_of
from potstill.serving.telemetry import Metrics
from potstill.serving.watcher import Item
from tests.conftest import generate_rows
from tests.potstill.serving.folders import LABELS, flip_byte, write_profile, write_serving
from tests.potstill.serving.test_watcher import release

SENT: list[Text] = [text for text, _ in generate_rows(12)]


@pytest.fixture(scope="module")
def workspace(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("champion")
    write_serving(tiny_base, root / "data/serving")
    write_profile(root / "data/serving", SENT, root / TEST_PROFILE)
    return root


@pytest.fixture
def challenger(tiny_base: Path, tmp_path: Path) -> Path:
    """The same network, with its two labels the other way round and another temperature."""
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


def item(student: Student, texts: list[Text], seconds: float = 0.01) -> Item:
    return Item("r", texts, student.predicting(texts).rows, student.predict(texts), seconds, time.perf_counter())


def test_it_answers_too_and_its_agreement_is_counted(workspace: Path, challenger: Path) -> None:
    champion, other = Student(workspace / "data/serving", 1), Student(challenger, 1)
    registry = CollectorRegistry()
    shadow = Shadow(other, 1.0, 9.0, registry, "challenger")
    shadow.start()
    asked = item(champion, SENT)
    shadow.saw(asked)
    until(lambda: value(registry, "texts_total") == len(SENT))
    answers = other.predict(SENT)
    same = sum(a.label == b.label for a, b in zip(asked.answers, answers, strict=True))  # type: ignore[union-attr]
    assert value(registry, "agreements_total") == same < len(SENT)
    wanted = sum(
        abs(max(a.probabilities) - b.probabilities[other.card.labels.index(a.label)])  # type: ignore[union-attr, arg-type]
        for a, b in zip(asked.answers, answers, strict=True)
    )
    assert value(registry, "difference_sum") == pytest.approx(wanted)
    assert value(registry, "seconds_count") == 1
    assert value(registry, "riding") == 1
    shadow.close()


def test_users_see_the_champions_answers_alone(
    workspace: Path, challenger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHADOW_FOLDER, str(challenger))
    about, metrics = release(workspace, shadow=1.0), Metrics()
    app = create_app(about, metrics)
    start(app, about, Student(about.folder, 1))
    with TestClient(front(app, about, Keys({}), metrics)) as client:
        answered = client.post("/v1/classify", json={"texts": SENT}).json()
        until(lambda: b'potstill_shadow_texts_total{model="challenger"} 12.0' in metrics.exposition())
    wanted = Student(about.folder, 1).predict(SENT)
    assert [row["label"] for row in answered["predictions"]] == [row.label for row in wanted]
    assert answered["model"]["candidate"] == about.candidate
    assert not [thread for thread in threading.enumerate() if thread.name == "shadow"]


def test_a_share_of_the_requests_and_no_more_than_can_wait(workspace: Path, challenger: Path) -> None:
    registry = CollectorRegistry()
    champion = Student(workspace / "data/serving", 1)
    shadow = Shadow(Student(challenger, 1), 0.25, 9.0, registry, "challenger")
    shadow._random.seed(1)
    asked = item(champion, SENT[:1])
    for _ in range(400):  # not started, so that all wait
        shadow.saw(asked)
    assert len(shadow._queue) == module.WAITING
    assert (value(registry, "skipped_total") or 0) + module.WAITING == pytest.approx(100, abs=25)


@pytest.mark.parametrize(("beside", "riding"), [(0.011, True), (0.02, False)])
def test_one_that_slows_the_champion_is_dropped(
    workspace: Path, challenger: Path, beside: float, riding: bool, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    champion, other = Student(workspace / "data/serving", 1), Student(challenger, 1)
    at_work, go_on = threading.Event(), threading.Event()
    predict = other.predict

    def slow(texts: Any) -> Any:
        at_work.set()
        assert go_on.wait(20)
        return predict(texts)

    other.predict = slow  # type: ignore[method-assign]
    shadow = Shadow(other, 1.0, 1.2, registry, "challenger")
    alone = item(champion, SENT[:1], 0.01)
    for _ in range(module.FEWEST):  # before it has begun
        shadow.saw(alone)
    shadow.start()
    assert at_work.wait(20)
    met = item(champion, SENT[:1], beside)
    for _ in range(module.FEWEST):
        shadow.saw(met)
    assert value(registry, "slowdown") == pytest.approx(beside / 0.01)
    assert (shadow.riding, value(registry, "riding")) == (riding, float(riding))
    assert ("is dropped" in caplog.text) is not riding
    go_on.set()
    shadow.close()
    assert not shadow._queue or riding


class Timed:
    """A challenger that never computes, and requests of the champion at moments of our choice."""

    def __init__(self, workspace: Path, challenger: Path) -> None:
        self.registry = CollectorRegistry()
        self.shadow = Shadow(Student(challenger, 1), 0.0, 1.2, self.registry, "challenger")
        self.request = item(Student(workspace / "data/serving", 1), SENT[:1])

    def saw(self, seconds: float, *, beside: bool) -> None:
        self.shadow._began = 10.0 if beside else None
        self.shadow.saw(self.request._replace(seconds=seconds, began=11.0))


def test_a_change_of_the_load_is_none_of_its_doing(workspace: Path, challenger: Path) -> None:
    timed = Timed(workspace, challenger)
    for seconds in (0.05, 0.01):  # a busy hour, then a quiet one, in which hardly a request meets it
        for number in range(module.COMPARED):
            timed.saw(seconds, beside=False)
            if seconds == 0.05 or number % 4 == 0:
                timed.saw(seconds, beside=True)
    assert timed.shadow.riding
    assert value(timed.registry, "slowdown") == 1.0


def test_a_request_that_is_slow_for_another_reason_and_so_meets_it_is_none_of_its_doing(
    workspace: Path, challenger: Path
) -> None:
    timed = Timed(workspace, challenger)
    timed.shadow._worked.append((20.0, 30.0))
    for _ in range(module.COMPARED):
        timed.saw(0.01, beside=False)
        timed.shadow.saw(timed.request._replace(seconds=0.01, began=25.0))
        timed.shadow.saw(timed.request._replace(seconds=15.0, began=11.0))  # it began before, and was held up
    assert timed.shadow.riding


@pytest.mark.parametrize(("over", "riding"), [(55, True), (75, False)])
def test_chance_does_not_drop_it(workspace: Path, challenger: Path, over: int, riding: bool) -> None:
    timed = Timed(workspace, challenger)
    for number in range(module.FEWEST):
        timed.saw(0.01, beside=False)
        timed.saw(0.013 if number < over else 0.009, beside=True)
    assert value(timed.registry, "slowdown") == pytest.approx(1.3)
    assert timed.shadow.riding is riding


def test_one_that_fails_is_dropped(workspace: Path, challenger: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    shadow = Shadow(Student(challenger, 1), 1.0, 9.0, registry, "challenger")
    shadow.start()
    asked = item(Student(workspace / "data/serving", 1), SENT[:1])
    shadow.saw(asked._replace(texts=[("a", "pair")]))
    until(lambda: value(registry, "riding") == 0)
    assert "failed and is dropped: the model classifies single texts" in caplog.text
    shadow.close()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: change(folder, labels=["no", "yes"]), "answers another question"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no readable manifest"),
        (lambda folder: flip_byte(folder / "model.onnx"), "altered"),
        (lambda folder: shutil.rmtree(folder), "challenger"),
    ],
)
def test_one_that_cannot_ride_leaves_the_champion_alone(
    workspace: Path,
    challenger: Path,
    damage: Callable[[Path], object],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(challenger)
    monkeypatch.setenv(SHADOW_FOLDER, str(challenger))
    assert shadow_of(release(workspace, shadow=0.5), CollectorRegistry()) is None
    assert said in caplog.text
    caplog.clear()
    assert shadow_of(release(workspace), CollectorRegistry()) is None
    assert not caplog.text


def test_the_champion_does_not_shadow_itself(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SHADOW_FOLDER, str(workspace / "data/serving"))
    assert shadow_of(release(workspace, shadow=0.5), CollectorRegistry()) is None
    assert "holds the champion itself" in caplog.text


def test_a_challenger_fails_in_no_way_that_keeps_the_champion_from_answering(
    workspace: Path, challenger: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room for a second model")

    about, metrics = release(workspace, shadow=1.0), Metrics()
    student, app = Student(about.folder, 1), create_app(about, metrics)
    monkeypatch.setenv(SHADOW_FOLDER, str(challenger))
    monkeypatch.setattr(module, "Student", fail)
    start(app, about, student)
    with TestClient(front(app, about, Keys({}), metrics)) as client:
        assert client.post("/v1/classify", json={"texts": SENT}).status_code == 200
    assert "the challenger is left out: no room for a second model" in caplog.text
    assert b"potstill_shadow" not in metrics.exposition()
