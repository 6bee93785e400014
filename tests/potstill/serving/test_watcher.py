from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from potstill.artifacts import MANIFEST, sha256_file
from potstill.config.serving_params import Serve, Watch
from potstill.errors import ToolError
from potstill.evaluation.drift import read_windows
from potstill.inference.profile import Counts, read_profile
from potstill.inference.runtime import Prediction, Student, Text, read_card
from potstill.inference.window_store import ANSWERS, COUNTS, TEXTS, FolderStore, Store, candidate_location, text_sha256
from potstill.kinds.definitions.question_answering import Reply
from potstill.kinds.definitions.token_classification import Entity, Tagging
from potstill.labels.windows import TextWindow
from potstill.paths import TEST_PROFILE
from potstill.serving import watcher as module
from potstill.serving.app import create_app, start
from potstill.serving.keys import Keys
from potstill.serving.launch import WATCH_FOLDER
from potstill.serving.middleware import add_middleware
from potstill.serving.release import Release, Settings
from potstill.serving.telemetry import Metrics
from potstill.serving.watcher import AnsweredRequest, Watcher, text_free_answer, watch_location
from tests.conftest import generate_rows
from tests.potstill.serving.folders import write_profile, write_serving

TEXTS_SENT = [text for text, _ in generate_rows(40)]
SECRET = "write to ann@example.org, 555 0100 200, room 12"


@pytest.fixture(scope="module")
def workspace(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("watched")
    write_serving(tiny_base, root / "data/serving")
    write_profile(root / "data/serving", list(TEXTS_SENT), root / TEST_PROFILE)
    return root


@pytest.fixture(scope="module")
def student(workspace: Path) -> Student:
    return Student(workspace / "data/serving", 1)


def release(workspace: Path, **watch: Any) -> Release:
    folder = workspace / "data/serving"
    candidate = sha256_file(folder / MANIFEST)
    settings = Settings(name="n", serve=Serve(), watch=Watch(**watch))
    profile = read_profile(workspace / TEST_PROFILE, candidate)
    return Release(folder, settings, read_card(folder), "n:1", False, candidate, {}, profile)


def make_watcher(workspace: Path, store: Store | None, **watch: Any) -> tuple[Watcher, CollectorRegistry]:
    served = release(workspace, **watch)
    registry = CollectorRegistry()
    assert served.profile is not None
    return Watcher(served.profile, served.card, served.settings.watch, registry, bento="n:1", store=store), registry


def ask(watcher: Watcher, student: Student, request: str, texts: list[str]) -> list[Prediction]:
    inputs: list[Text] = list(texts)
    rows = student.predict_work(inputs).rows
    answers = student.predict(inputs)
    watcher.observe(AnsweredRequest(request, inputs, rows, answers, 0.0))
    return answers


def lines(folder: Path, end: str) -> list[dict[str, Any]]:
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(end))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_window_has_the_counts_of_its_texts_and_their_drift(
    workspace: Path, student: Student, tmp_path: Path
) -> None:
    watcher, registry = make_watcher(workspace, FolderStore(tmp_path / "w"), window_texts=10)
    watcher.start()
    for at in range(0, 35, 7):
        ask(watcher, student, f"r{at}", TEXTS_SENT[at : at + 7])
    watcher.close()
    windows = lines(tmp_path / "w", COUNTS)
    assert [window["texts"] for window in windows] == [10, 10, 10, 5]
    served = release(workspace)
    assert served.profile is not None
    assert {window["profile"] for window in windows} == {served.profile.sum}
    assert {(window["candidate"], window["bento"]) for window in windows} == {(served.candidate, "n:1")}
    merged = Counts(served.profile)
    expected = Counts(served.profile)
    for window in windows:
        merged.merge(window)
        assert window["start"] <= window["end"]
        assert set(window["psi"]) == set(served.profile.features)
        assert set(window["psi"]) - set(window["ks"]) == {"label"}
    request = AnsweredRequest("", TEXTS_SENT[:35], *_answered(student, TEXTS_SENT[:35]), 0.0)
    observations = [text.observation for text in request.answered_texts()]
    expected.add(observations, served.card)
    assert merged.to_json()["counts"] == expected.to_json()["counts"]
    assert registry.get_sample_value("potstill_watched_texts_total") == 35
    last = windows[-1]
    for name in ("psi", "ks"):
        for feature, value in last[name].items():
            assert registry.get_sample_value(f"potstill_drift_{name}", {"feature": feature}) == value
    correctness = served.profile.right
    assert correctness is not None
    estimate = last["confidence"]["total"] / last["confidence"]["rows"] + correctness.gap.mean
    assert registry.get_sample_value("potstill_estimated_accuracy") == pytest.approx(estimate)


def _answered(student: Student, texts: list[str]) -> tuple[Any, Any]:
    inputs: list[Text] = list(texts)
    return student.predict_work(inputs).rows, student.predict(inputs)


def test_answers_are_written_without_their_texts(workspace: Path, student: Student, tmp_path: Path) -> None:
    watcher, registry = make_watcher(workspace, FolderStore(tmp_path / "w"))
    answers = ask(watcher, student, "abc", [SECRET, TEXTS_SENT[0]])
    watcher.close()
    records = lines(tmp_path / "w", ANSWERS)
    assert [(line["request_id"], line["position"], line["label"]) for line in records] == [
        ("abc", 0, answers[0].label),
        ("abc", 1, answers[1].label),
    ]
    assert [line["confidence"] for line in records] == [max(answer.probabilities) for answer in answers]
    assert all(set(line) == {"request_id", "position", "time", "label", "confidence"} for line in records)
    written = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "w").iterdir())
    assert not [word for word in [*SECRET.split(), *TEXTS_SENT[0].split()] if f"{word} " in written]
    assert not lines(tmp_path / "w", TEXTS)
    for label in {answer.label for answer in answers}:
        count = sum(answer.label == label for answer in answers)
        assert registry.get_sample_value("potstill_answers_total", {"label": str(label)}) == count


def test_captured_texts_are_masked_before_they_are_written(workspace: Path, student: Student, tmp_path: Path) -> None:
    watcher, _ = make_watcher(workspace, FolderStore(tmp_path / "w"), capture=1.0, hash_texts=True)
    ask(watcher, student, "abc", [SECRET])
    watcher.close()
    assert lines(tmp_path / "w", TEXTS) == [
        {"request_id": "abc", "position": 0, "text": "write to [email], [phone], room [number]"}
    ]
    (answer,) = lines(tmp_path / "w", ANSWERS)
    assert answer["text_sha256"] == text_sha256(SECRET)
    assert "ann@" not in "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "w").iterdir())


def test_a_share_of_the_texts_is_captured(workspace: Path, student: Student, tmp_path: Path) -> None:
    watcher, _ = make_watcher(workspace, FolderStore(tmp_path / "w"), capture=0.5, window_texts=10_000)
    watcher._random.seed(4)
    row, answers = student.predict_work(["a"]).rows[0], student.predict(["a"])
    watcher.observe(AnsweredRequest("r", ["a"] * 2000, [row] * 2000, answers * 2000, 0.0))
    watcher.close()
    assert len(lines(tmp_path / "w", TEXTS)) == pytest.approx(1000, abs=120)


@pytest.mark.slow
def test_a_window_ends_by_time_and_old_windows_are_removed(
    workspace: Path, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.02)
    watcher, _ = make_watcher(workspace, FolderStore(tmp_path / "w"), window_seconds=1.0, keep_windows=2, capture=1.0)
    watcher.start()
    for number in range(3):
        ask(watcher, student, f"r{number}", ["a film"])
        until(
            lambda number=number: any(line["request_id"] == f"r{number}" for line in _written_answers(tmp_path / "w"))
        )
    watcher.close()
    assert [line["request_id"] for line in lines(tmp_path / "w", ANSWERS)] == ["r1", "r2"]
    assert len(lines(tmp_path / "w", COUNTS)) == len(lines(tmp_path / "w", TEXTS)) == 2
    assert (tmp_path / "w/profile.json").exists()


def test_a_clock_that_is_set_back_keeps_no_window_open(
    workspace: Path, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, _ = make_watcher(workspace, FolderStore(tmp_path / "w"), window_seconds=60)
    ask(watcher, student, "r", ["a"])
    watcher._count()
    later = time.monotonic() + 61
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 0.0, monotonic=lambda: later))
    watcher._count()
    assert len(lines(tmp_path / "w", COUNTS)) == 1


def _written_answers(folder: Path) -> list[dict[str, Any]]:
    return lines(folder, ANSWERS) if folder.exists() else []


def test_a_window_that_cannot_be_written_is_logged_and_counted(
    workspace: Path, student: Student, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    watcher, registry = make_watcher(workspace, FolderStore(tmp_path / "file"), window_texts=2)
    ask(watcher, student, "r", ["a", "b", "c"])
    watcher.close()
    assert registry.get_sample_value("potstill_watch_failures_total") == 2
    assert registry.get_sample_value("potstill_watched_texts_total") == 3
    assert "watch: " in caplog.text


def test_a_store_that_is_away_at_the_start_gets_the_profile_with_the_first_window(
    workspace: Path, student: Student, tmp_path: Path
) -> None:
    (tmp_path / "w").write_text("in the way", encoding="utf-8")
    watcher, registry = make_watcher(workspace, FolderStore(tmp_path / "w"))
    watcher.start()
    until(lambda: registry.get_sample_value("potstill_watch_failures_total"))
    (tmp_path / "w").unlink()
    ask(watcher, student, "r", ["a"])
    watcher.close()
    windows = read_windows(FolderStore(tmp_path / "w"), 1)
    assert windows is not None
    assert [window["texts"] for window in windows.windows] == [1]


def test_what_a_killed_service_left_of_a_window_is_removed_with_the_windows_of_its_age(
    workspace: Path, student: Student, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "w")
    for stem in ("20000101T000000.000000Z-1-0", "99990101T000000.000000Z-1-0"):
        store.write(stem + TEXTS, "")
    watcher, _ = make_watcher(workspace, store, window_texts=1, keep_windows=1, capture=1.0)
    ask(watcher, student, "r", ["a", "b"])
    watcher.close()
    assert [line["position"] for line in lines(tmp_path / "w", ANSWERS)] == [1]
    assert [name[:4] for name in store.names() if name.endswith(TEXTS)] == [f"{datetime.now(UTC).year}", "9999"]


def test_texts_over_the_limit_are_dropped_and_counted(
    workspace: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING", 5)
    watcher, registry = make_watcher(workspace, None)
    for number in range(4):
        ask(watcher, student, f"r{number}", ["a", "b"])
    watcher.close()
    assert registry.get_sample_value("potstill_watched_texts_total") == 4
    assert registry.get_sample_value("potstill_watch_dropped_texts_total") == 4


def test_no_answer_of_many_threads_is_lost(workspace: Path, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    watcher, registry = make_watcher(workspace, None, window_texts=7)
    rows, answers = _answered(student, ["a", "b"])
    watcher.start()
    threads = [
        threading.Thread(
            target=lambda: [watcher.observe(AnsweredRequest("r", ["a", "b"], rows, answers, 0.0)) for _ in range(100)]
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watcher.close()
    assert registry.get_sample_value("potstill_watched_texts_total") == 800


def test_text_free_answers() -> None:
    assert text_free_answer(Prediction(["a"], [0.9], [1.0], 3, False)) == ["a"]
    assert text_free_answer(Tagging([Entity("LOC", 2, 5, "Ulm", 0.9)], 1, 0.9)) == [["LOC", 2, 5]]
    assert text_free_answer(Reply("Ulm", 2, 5, 0.9, 1)) == [2, 5]
    assert text_free_answer(Reply(None, 0, 0, 0.9, 1)) is None


@contextmanager
def service(workspace: Path, **watch: Any) -> Iterator[tuple[TestClient, Metrics]]:
    served = release(workspace, **watch)
    metrics = Metrics()
    app = create_app(served, metrics)
    start(app, served, Student(served.folder, 1))
    with TestClient(add_middleware(app, served, Keys({}), metrics)) as client:
        yield client, metrics


def test_the_service_writes_its_answers_under_the_request_ids(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WATCH_FOLDER, str(tmp_path))
    with service(workspace) as (client, metrics):
        classified = client.post("/v1/classify", json={"texts": TEXTS_SENT[:3]})
        predicted = client.post("/predict", json={"inputs": TEXTS_SENT[3]}, headers={"x-request-id": "mine"})
        assert client.post("/v1/classify", json={"texts": []}).status_code == 422
        # Texts with a word removed are not texts of users.
        assert client.post("/v1/explain", json={"text": TEXTS_SENT[0]}).status_code == 200
        until(lambda: b"potstill_watched_texts_total 4.0" in metrics.exposition())
        names = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
        assert {"potstill_watched_texts", "potstill_answers", "potstill_confidence", "potstill_drift_psi"} <= names
    folder = Path(candidate_location(str(tmp_path), release(workspace).candidate))
    request_ids = [classified.headers["x-request-id"]] * 3 + ["mine"]
    records = lines(folder, ANSWERS)
    assert [(line["request_id"], line["position"]) for line in records] == list(
        zip(request_ids, [0, 1, 2, 0], strict=True)
    )
    assert [line["label"] for line in records[:3]] == [row["label"] for row in classified.json()["predictions"]]
    assert records[3]["label"] == predicted.json()[0]["label"]
    assert [window["texts"] for window in lines(folder, COUNTS)] == [4]


def test_without_a_profile_nothing_is_watched(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = release(workspace)
    metrics = Metrics()
    bare = Release(served.folder, served.settings, served.card, None, False, served.candidate, {})
    app = create_app(bare, metrics)
    start(app, bare, Student(bare.folder, 1))
    with TestClient(add_middleware(app, bare, Keys({}), metrics)) as client:
        assert client.post("/v1/classify", json={"texts": ["a"]}).status_code == 200
    assert "watch: off" in caplog.text
    assert b"potstill_watched" not in metrics.exposition()


@pytest.mark.parametrize(
    ("variable", "folder", "location"),
    [
        (None, "watch", None),
        (None, None, None),
        (None, "/var/watch", "/var/watch"),
        (None, "s3://a/b", "s3://a/b"),
        ("/var/x", "watch", "/var/x"),
        ("memory://x", "/var/watch", "memory://x"),
        ("", "/var/watch", None),
    ],
)
def test_the_location_of_windows(
    variable: str | None, folder: str | None, location: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WATCH_FOLDER, raising=False)
    if variable is not None:
        monkeypatch.setenv(WATCH_FOLDER, variable)
    assert watch_location(Watch(folder=folder)) == location


def test_a_relative_location_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WATCH_FOLDER, "watch")
    with pytest.raises(ToolError, match="needs an absolute path"):
        watch_location(Watch())


def test_a_text_read_in_windows_has_the_tokens_of_all_of_them() -> None:
    rows = [TextWindow([number, 9], [0, 0], 0, np.empty(0, dtype=np.int64)) for number in range(4)]
    answers = [Tagging([], 2, 0.9), Tagging([], 1, 0.9), Tagging([], 1, 0.9)]
    texts = AnsweredRequest("r", ["a", "b", "c"], rows, answers, 0.0).answered_texts()
    assert [text.observation.ids for text in texts] == [[0, 9, 1, 9], [2, 9], [3, 9]]
