from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from potstill.artifacts import MANIFEST, sha256_file
from potstill.config.serving_params import Serve, Watch
from potstill.data.tokens.windows import TextWindow
from potstill.errors import ToolError
from potstill.inference.profile import Counts, read_profile
from potstill.inference.runtime import Found, Prediction, Reply, Student, Tagging, Text, read_card
from potstill.inference.window_store import ANSWERS, COUNTS, TEXTS, FolderStore, Store, below, text_sum
from potstill.paths import TEST_PROFILE
from potstill.serving import watcher as module
from potstill.serving.app import create_app, start
from potstill.serving.front import front
from potstill.serving.keys import Keys
from potstill.serving.launch import WATCH_FOLDER
from potstill.serving.release import Release, Settings
from potstill.serving.telemetry import Metrics
from potstill.serving.watcher import Item, Watcher, said, watch_place
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


def make(workspace: Path, store: Store | None, **watch: Any) -> tuple[Watcher, CollectorRegistry]:
    about, registry = release(workspace, **watch), CollectorRegistry()
    assert about.profile is not None
    return Watcher(about.profile, about.card, about.settings.watch, registry, bento="n:1", store=store), registry


def ask(watcher: Watcher, student: Student, request: str, texts: list[str]) -> list[Prediction]:
    asked: list[Text] = list(texts)
    work = student.predicting(asked)
    answers = student.predict(asked)
    watcher.saw(Item(request, asked, work.rows, answers, 0.0))
    return answers


def lines(folder: Path, end: str) -> list[dict[str, Any]]:
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(end))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_window_has_its_texts_counted_and_says_how_far_they_are(
    workspace: Path, student: Student, tmp_path: Path
) -> None:
    watcher, registry = make(workspace, FolderStore(tmp_path / "w"), window_texts=10)
    watcher.start()
    for at in range(0, 35, 7):
        ask(watcher, student, f"r{at}", TEXTS_SENT[at : at + 7])
    watcher.close()
    windows = lines(tmp_path / "w", COUNTS)
    assert [window["texts"] for window in windows] == [10, 10, 10, 5]
    about = release(workspace)
    assert about.profile is not None
    assert {window["profile"] for window in windows} == {about.profile.sum}
    assert {(window["candidate"], window["bento"]) for window in windows} == {(about.candidate, "n:1")}
    joined, wanted = Counts(about.profile), Counts(about.profile)
    for window in windows:
        joined.join(window)
        assert window["start"] <= window["end"]
        assert set(window["psi"]) == set(about.profile.features)
        assert set(window["psi"]) - set(window["ks"]) == {"label"}
    rows = [named.seen for named in Item("", TEXTS_SENT[:35], *_answered(student, TEXTS_SENT[:35]), 0.0).seen()]
    wanted.add(rows, about.card)
    assert joined.to_json()["counts"] == wanted.to_json()["counts"]
    assert registry.get_sample_value("potstill_watched_texts_total") == 35
    last = windows[-1]
    for name in ("psi", "ks"):
        for feature, value in last[name].items():
            assert registry.get_sample_value(f"potstill_drift_{name}", {"feature": feature}) == value
    right = about.profile.right
    assert right is not None
    estimate = last["confidence"]["total"] / last["confidence"]["rows"] + right.gap.mean
    assert registry.get_sample_value("potstill_estimated_accuracy") == pytest.approx(estimate)


def _answered(student: Student, texts: list[str]) -> tuple[Any, Any]:
    asked: list[Text] = list(texts)
    return student.predicting(asked).rows, student.predict(asked)


def test_answers_are_kept_without_their_texts(workspace: Path, student: Student, tmp_path: Path) -> None:
    watcher, registry = make(workspace, FolderStore(tmp_path / "w"))
    answers = ask(watcher, student, "abc", [SECRET, TEXTS_SENT[0]])
    watcher.close()
    found = lines(tmp_path / "w", ANSWERS)
    assert [(line["request_id"], line["position"], line["label"]) for line in found] == [
        ("abc", 0, answers[0].label),
        ("abc", 1, answers[1].label),
    ]
    assert [line["confidence"] for line in found] == [max(answer.probabilities) for answer in answers]
    assert all(set(line) == {"request_id", "position", "time", "label", "confidence"} for line in found)
    written = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "w").iterdir())
    assert not [word for word in [*SECRET.split(), *TEXTS_SENT[0].split()] if f"{word} " in written]
    assert not lines(tmp_path / "w", TEXTS)
    for label in {answer.label for answer in answers}:
        count = sum(answer.label == label for answer in answers)
        assert registry.get_sample_value("potstill_answers_total", {"label": str(label)}) == count


def test_captured_texts_are_masked_before_they_are_written(workspace: Path, student: Student, tmp_path: Path) -> None:
    watcher, _ = make(workspace, FolderStore(tmp_path / "w"), capture=1.0, hash_texts=True)
    ask(watcher, student, "abc", [SECRET])
    watcher.close()
    assert lines(tmp_path / "w", TEXTS) == [
        {"request_id": "abc", "position": 0, "text": "write to [email], [phone], room [number]"}
    ]
    (answer,) = lines(tmp_path / "w", ANSWERS)
    assert answer["text_sha256"] == text_sum(SECRET)
    assert "ann@" not in "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "w").iterdir())


def test_a_share_of_the_texts_is_captured(workspace: Path, student: Student, tmp_path: Path) -> None:
    watcher, _ = make(workspace, FolderStore(tmp_path / "w"), capture=0.5, window_texts=10_000)
    watcher._random.seed(4)
    row, answers = student.predicting(["a"]).rows[0], student.predict(["a"])
    watcher.saw(Item("r", ["a"] * 2000, [row] * 2000, answers * 2000, 0.0))
    watcher.close()
    assert len(lines(tmp_path / "w", TEXTS)) == pytest.approx(1000, abs=120)


def test_a_window_ends_by_time_and_old_ones_are_forgotten(
    workspace: Path, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.02)
    watcher, _ = make(workspace, FolderStore(tmp_path / "w"), window_seconds=1.0, keep_windows=2, capture=1.0)
    watcher.start()
    for number in range(3):
        ask(watcher, student, f"r{number}", ["a film"])
        until(lambda number=number: any(line["request_id"] == f"r{number}" for line in _kept(tmp_path / "w")))
    watcher.close()
    assert [line["request_id"] for line in lines(tmp_path / "w", ANSWERS)] == ["r1", "r2"]
    assert len(lines(tmp_path / "w", COUNTS)) == len(lines(tmp_path / "w", TEXTS)) == 2
    assert (tmp_path / "w/profile.json").exists()


def _kept(folder: Path) -> list[dict[str, Any]]:
    return lines(folder, ANSWERS) if folder.exists() else []


def test_what_cannot_be_written_is_lost_said_and_counted(
    workspace: Path, student: Student, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    watcher, registry = make(workspace, FolderStore(tmp_path / "file"), window_texts=2)
    ask(watcher, student, "r", ["a", "b", "c"])
    watcher.close()
    assert registry.get_sample_value("potstill_watch_failures_total") == 2
    assert registry.get_sample_value("potstill_watched_texts_total") == 3
    assert "watch: " in caplog.text


def test_more_than_can_wait_is_dropped_and_counted(
    workspace: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING", 5)
    watcher, registry = make(workspace, None)
    for number in range(4):
        ask(watcher, student, f"r{number}", ["a", "b"])
    watcher.close()
    assert registry.get_sample_value("potstill_watched_texts_total") == 4
    assert registry.get_sample_value("potstill_watch_dropped_texts_total") == 4


def test_many_threads_leave_every_answer(workspace: Path, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    watcher, registry = make(workspace, None, window_texts=7)
    rows, answers = _answered(student, ["a", "b"])
    watcher.start()
    threads = [
        threading.Thread(target=lambda: [watcher.saw(Item("r", ["a", "b"], rows, answers, 0.0)) for _ in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watcher.close()
    assert registry.get_sample_value("potstill_watched_texts_total") == 800


def test_what_answers_say_without_a_word_of_the_text() -> None:
    assert said(Prediction(["a"], [0.9], [1.0], 3, False)) == ["a"]
    assert said(Tagging([Found("LOC", 2, 5, "Ulm", 0.9)], 1)) == [["LOC", 2, 5]]
    assert said(Reply("Ulm", 2, 5, 0.9, 1)) == [2, 5]
    assert said(Reply(None, 0, 0, 0.9, 1)) is None


@contextmanager
def service(workspace: Path, **watch: Any) -> Iterator[tuple[TestClient, Metrics]]:
    about, metrics = release(workspace, **watch), Metrics()
    app = create_app(about, metrics)
    start(app, about, Student(about.folder, 1))
    with TestClient(front(app, about, Keys({}), metrics)) as client:
        yield client, metrics


def test_the_service_writes_what_it_answered_under_the_ids_it_gave(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WATCH_FOLDER, str(tmp_path))
    with service(workspace) as (client, metrics):
        asked = client.post("/v1/classify", json={"texts": TEXTS_SENT[:3]})
        also = client.post("/predict", json={"inputs": TEXTS_SENT[3]}, headers={"x-request-id": "mine"})
        assert client.post("/v1/classify", json={"texts": []}).status_code == 422
        # The texts that a word is taken out of are no user's.
        assert client.post("/v1/explain", json={"text": TEXTS_SENT[0]}).status_code == 200
        until(lambda: b"potstill_watched_texts_total 4.0" in metrics.exposition())
        shown = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
        assert {"potstill_watched_texts", "potstill_answers", "potstill_confidence", "potstill_drift_psi"} <= shown
    folder = Path(below(str(tmp_path), release(workspace).candidate))
    given = [asked.headers["x-request-id"]] * 3 + ["mine"]
    found = lines(folder, ANSWERS)
    assert [(line["request_id"], line["position"]) for line in found] == list(zip(given, [0, 1, 2, 0], strict=True))
    assert [line["label"] for line in found[:3]] == [row["label"] for row in asked.json()["predictions"]]
    assert found[3]["label"] == also.json()[0]["label"]
    assert [window["texts"] for window in lines(folder, COUNTS)] == [4]


def test_without_a_profile_nothing_is_watched(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    about, metrics = release(workspace), Metrics()
    bare = Release(about.folder, about.settings, about.card, None, False, about.candidate, {})
    app = create_app(bare, metrics)
    start(app, bare, Student(bare.folder, 1))
    with TestClient(front(app, bare, Keys({}), metrics)) as client:
        assert client.post("/v1/classify", json={"texts": ["a"]}).status_code == 200
    assert "watch: off" in caplog.text
    assert b"potstill_watched" not in metrics.exposition()


@pytest.mark.parametrize(
    ("variable", "folder", "place"),
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
def test_where_a_service_writes(
    variable: str | None, folder: str | None, place: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WATCH_FOLDER, raising=False)
    if variable is not None:
        monkeypatch.setenv(WATCH_FOLDER, variable)
    assert watch_place(Watch(folder=folder)) == place


def test_a_relative_place_would_be_in_the_bento(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WATCH_FOLDER, "watch")
    with pytest.raises(ToolError, match="needs an absolute path"):
        watch_place(Watch())


def test_a_text_read_in_windows_has_the_tokens_of_all_of_them() -> None:
    rows = [TextWindow([number, 9], [0, 0], 0, np.empty(0, dtype=np.int64)) for number in range(4)]
    answers = [Tagging([], 2), Tagging([], 1), Tagging([], 1)]
    found = Item("r", ["a", "b", "c"], rows, answers, 0.0).seen()
    assert [named.seen.ids for named in found] == [[0, 9, 1, 9], [2, 9], [3, 9]]
