"""Streams of a real Redis server, answered by a tiny student."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from potstill.compute.processes import free_port
from potstill.config.alerts_params import Alerts, ShareRule
from potstill.config.predict_params import Predict
from potstill.config.stream_params import Stream
from potstill.errors import StreamError, ToolError
from potstill.prediction import stream_prediction
from potstill.prediction.alerting import Alert, Alerting
from potstill.prediction.arrival_metrics import StreamMetrics, metrics_server
from potstill.prediction.file_prediction import ChosenModel, predict_files
from potstill.prediction.redis_streams import Record, RecordStreams, Reply, parse_address
from potstill.prediction.stream_prediction import StreamPrediction
from tests.kills import kill_count
from tests.potstill.prediction.models import TEXTS, jsonl_bytes, read_lines, silent, tiny_model
from tests.redis_server import RedisServer, need_redis, redis_server
from tests.stream_kills import kill_often, written

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ChosenModel:
    return tiny_model(tiny_base, tmp_path_factory.mktemp("model") / "serving", variant="fp32", abstain_below=0.75)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    need_redis()
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.client.flushall()
    return running


def add(server: RedisServer, *texts: str) -> list[bytes]:
    return [server.client.xadd("reviews", {"id": number, "text": text}) for number, text in enumerate(texts)]


def streams_of(server: RedisServer, **settings: Any) -> RecordStreams:
    addresses = [parse_address(f"{server.url}/{key}") for key in ("reviews", "answers")]
    return RecordStreams(addresses[0], addresses[1], Stream(**settings))


@dataclass(frozen=True)
class Answering:
    """A stream that is answered in a thread."""

    server: RedisServer
    prediction: StreamPrediction
    running: Future[None]

    def wait(self, count: int) -> None:
        """Wait until so many records are answered or put aside."""
        self.wait_until(lambda: written(self.server) >= count)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self.running.done():
                self.running.result()
            time.sleep(0.005)


@contextmanager
def answering(
    server: RedisServer,
    model: ChosenModel,
    fields: tuple[str, ...] | None = None,
    metrics: StreamMetrics | None = None,
    alerting: Alerting | None = None,
    **settings: Any,
) -> Iterator[Answering]:
    """Answer the stream in a thread, which is stopped at the end and raises here what ended it."""
    stop = threading.Event()
    streams = streams_of(server, **settings)
    predict = Predict(threads=1, max_characters=500)
    prediction = StreamPrediction(
        streams, model, ("text",), fields, predict, metrics or StreamMetrics(), alerting or silent(model)
    )
    with ThreadPoolExecutor(1) as pool, streams.opened():
        running = pool.submit(prediction.run, stop)
        try:
            yield Answering(server, prediction, running)
        finally:
            stop.set()
            running.result()


def entries(server: RedisServer, key: str = "answers") -> list[dict[str, str]]:
    return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in server.client.xrange(key)]


def test_answers_are_those_of_a_file_with_the_same_rows(
    server: RedisServer, model: ChosenModel, tmp_path: Path
) -> None:
    rows = [{"id": str(number), "text": text} for number, text in enumerate([*TEXTS, TEXTS[0]])]
    (tmp_path / "in.jsonl").write_bytes(jsonl_bytes(rows))
    predict_files([str(tmp_path / "in.jsonl")], tmp_path / "out.jsonl", model, ("text",), None, Predict(threads=1))
    ids = add(server, *[row["text"] for row in rows])
    with answering(server, model, batch=50) as answers:
        answers.wait(len(rows))
    written_answers = entries(server)
    assert [answer.pop("model_record") for answer in written_answers] == [id_.decode() for id_ in ids]
    for answer, row in zip(written_answers, read_lines(tmp_path / "out.jsonl"), strict=True):
        assert answer.keys() == row.keys()
        for name, value in row.items():
            read = answer[name] if isinstance(value, str) else json.loads(answer[name])
            assert read == (pytest.approx(value, abs=1e-5) if name == "model_probabilities" else value)
    summary = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())["summary"]
    assert {name: answers.prediction.tally.sums[name] for name in ("rows", "abstained")} == {
        name: summary[name] for name in ("rows", "abstained")
    }
    assert answers.prediction.tally.counts.to_json()["counts"]["label"] == summary["counts"]["counts"]["label"]


def test_a_record_without_a_text_is_put_aside_and_says_why(server: RedisServer, model: ChosenModel) -> None:
    bad: list[tuple[dict[Any, Any], str]] = [
        ({"body": "a", "reason": "mine"}, "no text in column 'text'"),
        ({"text": " "}, "no text in column 'text'"),
        ({"text": b"\xff"}, "not UTF-8"),
        ({"text": "a" * 501}, "a text of 501 characters; at most 500 (predict.max_characters)"),
        ({"text": "a", "model_label": "b"}, "a field 'model_label', which the answers add; predict.prefix changes"),
        ({"text": "a"} | {f"f{number}": 0 for number in range(4100)}, "4,101 fields; at most 1,000"),
    ]
    ids = [server.client.xadd("reviews", fields) for fields, _ in bad]
    server.client.xadd("reviews", {"text": TEXTS[0], "image": b"\xff"})
    with answering(server, model) as answers:
        answers.wait(len(bad) + 1)
    rejected = server.client.xrange("answers:rejected")
    assert rejected[0][1][b"reason_"] == b"mine"
    for id_, (fields, said), (_, kept) in zip(ids, bad, rejected, strict=True):
        assert kept[b"reason"].decode().startswith(said)
        assert (kept[b"record"], kept[b"stream"]) == (id_, f"{server.url}/reviews".encode())
        assert all(name.encode() in kept for name in list(fields)[:1000])
    assert server.client.xrange("answers")[0][1][b"image"] == b"\xff"
    assert (answers.prediction.tally.sums["rows"], answers.prediction.tally.sums["rejected"]) == (1, len(bad))


def test_chosen_fields_are_passed_on(server: RedisServer, model: ChosenModel) -> None:
    add(server, TEXTS[0])
    with answering(server, model, fields=("id", "other")) as answers:
        answers.wait(1)
    names = {"label", "probabilities", "abstained", "truncated", "version", "record"}
    assert entries(server)[0].keys() == {"id", *(f"model_{name}" for name in names)}


def test_of_two_processes_with_the_same_record_one_answers(server: RedisServer) -> None:
    ids = add(server, *TEXTS[:4])
    slow, other = (streams_of(server, claim_seconds=0.01, batch=3) for _ in range(2))
    replies = [Reply(id_, {b"label": b"x"}, rejected=False) for id_ in ids]
    with slow.opened(), other.opened():
        assert [record.id for record in slow.read(3)] == ids[:3]
        time.sleep(0.05)
        claimed = other.read(2) + other.read(2) + other.read(2)
        assert [record.id for record in claimed] == ids
        assert other.write(replies[:2]) == [True, True]
        assert slow.write(replies[:3]) == [False, False, True]
        assert slow.write(replies[:3]) == [False, False, False]
        assert other.write(replies[2:]) == [False, True]
        assert written(server) == 4
        assert slow.lag() == (0, 0)
    assert server.client.xinfo_groups("reviews")[0]["consumers"] == 0


@pytest.mark.parametrize(
    ("id_", "seconds"), [(b"1700000000000-1", 1.7e9), (b"7-0", 1.8e9), (b"1700000000000000-0", 1.8e9)]
)
def test_an_id_that_is_no_time_counts_as_now(id_: bytes, seconds: float) -> None:
    assert Reply(id_, {}, rejected=False).written(1.8e9) == seconds


def test_a_full_stream_waits_for_room(
    server: RedisServer, model: ChosenModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stream_prediction, "_FULL_PAUSE", 0.01)
    add(server, *TEXTS)
    said = ""
    with answering(server, model, batch=40, max_length=50) as answers:
        answers.wait_until(lambda: server.client.xlen("answers") == 50)
        while "is full" not in said:
            said += capsys.readouterr().out
            time.sleep(0.01)
        assert server.client.xlen("answers") == 50
        server.client.xtrim("answers", maxlen=0)
        answers.wait(50)
        server.client.xtrim("answers", maxlen=0)
        answers.wait(len(TEXTS) - 100)
    said += capsys.readouterr().out
    assert f"stream: {server.url}/answers is full; waiting for room\n" in said
    assert f"stream: {server.url}/answers has room again\n" in said
    assert server.client.xinfo_groups("reviews")[0]["lag"] == 0


def test_a_full_stream_can_lose_its_oldest_answers(server: RedisServer, model: ChosenModel) -> None:
    server.client.config_set("stream-node-max-entries", 10)
    add(server, *TEXTS)
    with answering(server, model, max_length=50, when_full="trim") as answers:
        answers.wait_until(lambda: answers.prediction.tally.sums["rows"] == len(TEXTS))
    assert 50 <= server.client.xlen("answers") < 70


def test_while_the_server_is_away_it_tries_again(
    model: ChosenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_redis()
    monkeypatch.setattr(stream_prediction, "_FIRST_PAUSE", 0.01)
    with redis_server(tmp_path) as server:
        add(server, *TEXTS)
        metrics = StreamMetrics()
        said = ""
        with answering(server, model, batch=10, metrics=metrics) as answers:
            answers.wait(20)
            server.stop()
            while "trying again in 0.02 s" not in said:
                said += capsys.readouterr().out
                time.sleep(0.01)
            server.start()
            add(server, TEXTS[0])  # all others may have been answered before
            answers.wait(len(TEXTS) + 1)
        said += capsys.readouterr().out
        assert len({answer["model_record"] for answer in entries(server)}) == written(server) == len(TEXTS) + 1
    shown = server.url.removesuffix("/0")
    assert f"stream: {shown}/0 is away (" in said
    assert f"stream: {shown}/0 is back\n" in said
    assert metrics.registry.get_sample_value("potstill_stream_failures_total") >= 2


def test_a_stream_that_is_deleted_meanwhile_ends_it(server: RedisServer, model: ChosenModel) -> None:
    add(server, TEXTS[0])
    said = "the stream or its group was deleted, or the server has lost its data; run again to begin anew"
    with pytest.raises(StreamError, match=said), answering(server, model) as answers:
        answers.wait(1)
        server.client.delete("reviews")
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("reviews", "{db}/a", "^reviews names no stream; write it as redis://host:port/db/stream "),
        ("redis://user:secret@host/reviews", "{db}/a", "^redis://host/reviews names no stream"),
        ("redis://user:secret@host:high/0/reviews", "{db}/a", "^redis://host:high/0/reviews names no stream"),
        ("{db}/reviews", "{db}/answers#1", "answers#1 names no stream; .*%23 for a #"),
        ("redis://a..b/0/reviews", "redis://a..b/0/answers", "redis://a..b/0 does not answer"),
        ("{db}/reviews", "{db}/reviews", "cannot be read and answered to at once; name another stream with --to"),
        ("{db}/reviews", "redis://elsewhere/0/a", "are in different databases"),
        ("{db}/other", "{db}/a", "has no stream 'other'; check its name, or write a first record"),
        ("{db}/text", "{db}/a", "'text' in redis://.*/0 is a string and no stream; name another key"),
        ("{db}/reviews", "{db}/text", "'text' in redis://.*/0 is a string and no stream"),
        ("redis://:secret@127.0.0.1:9/0/x", "redis://:secret@127.0.0.1:9/0/a", "redis://127.0.0.1:9/0 does not answer"),
    ],
)
def test_what_is_no_stream_is_one_sentence(server: RedisServer, source: str, target: str, said: str) -> None:
    server.client.set("text", "x")
    add(server, TEXTS[0])
    with pytest.raises(StreamError, match=said) as caught:
        urls = [parse_address(url.format(db=server.url)) for url in (source, target)]
        with RecordStreams(urls[0], urls[1], Stream()).opened():
            pass
    assert "secret" not in str(caught.value)


def test_a_name_may_have_slashes_and_escapes() -> None:
    address = parse_address("rediss://user:pa%2Fss@host:6380/2/a/b%20c")
    assert (address.server, address.key, str(address)) == (
        "rediss://user:pa%2Fss@host:6380/2", "a/b c", "rediss://host:6380/2/a/b c"
    )  # fmt: skip


def test_a_host_of_the_metrics_that_is_none_is_one_sentence() -> None:
    settings = Stream(metrics_host="a..b", metrics_port=free_port())
    with (
        pytest.raises(ToolError, match=r"cannot listen on a..b port \d+ \(.*\); set stream.metrics_host"),
        metrics_server(StreamMetrics().registry, settings, "stream"),
    ):
        pass


def test_metrics_count_records_and_what_waits(
    server: RedisServer, model: ChosenModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stream_prediction, "LINE_SECONDS", 0.0)
    add(server, *TEXTS[:9], "")
    metrics = StreamMetrics()
    settings = Stream(metrics_port=free_port())
    with metrics_server(metrics.registry, settings, "stream"), answering(server, model, metrics=metrics) as answers:
        answers.wait(10)
        page = ""
        while 'state="unread"} 0.0' not in page:
            with urllib.request.urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics") as response:
                page = response.read().decode()
        said = r"cannot listen on 127.0.0.1 port \d+ \(Address already in use\)"
        with pytest.raises(ToolError, match=said), metrics_server(metrics.registry, settings, "stream"):
            pass
    for line in (
        'records_total{outcome="answered"} 9.0',
        'records_total{outcome="rejected"} 1.0',
        "seconds_count 10.0",
    ):
        assert f"potstill_stream_{line}\n" in page
    assert "stream: 9 answered, 1 rejected, " in capsys.readouterr().out


def test_kills_at_random_moments_leave_one_answer_to_each_record(server: RedisServer, model: ChosenModel) -> None:
    kills = kill_count(3)
    pending = kill_often(server, model.serving, kills, per_kill=300, seed=1)
    records = server.client.xlen("reviews")
    caught = sum(count > 0 for count in pending)
    print(f"{kills} kills over {records} records of a stream, {caught} in the middle of a batch: one answer each")


def test_a_record_that_was_deleted_meanwhile_is_left_out(server: RedisServer) -> None:
    ids = add(server, *TEXTS[:2])
    first, second = streams_of(server, claim_seconds=0.01), streams_of(server, claim_seconds=0.01)
    with first.opened(), second.opened():
        assert len(first.read(2)) == 2
        server.client.xdel("reviews", ids[0])
        time.sleep(0.05)
        assert second.read(2) == [Record(ids[1], {b"id": b"1", b"text": TEXTS[1].encode()})]


def test_alerts_are_told_once_a_window_also_by_another_process(server: RedisServer, model: ChosenModel) -> None:
    """Windows are of the times at which the records were written, which are in their ids."""
    rules = Alerts(rules={"any": ShareRule(kind="share", label="negative", above=0.0)}, min_texts=20, window_minutes=60)
    told: list[Alert] = []
    day = 1_600_041_600  # 14 September 2020, midnight UTC

    def answer(hour: int, count: int) -> None:
        before = written(server)
        for number, text in enumerate(TEXTS[:count]):
            server.client.xadd("reviews", {"text": text}, id=f"{1000 * (day + 3600 * hour) + before + number}-0")
        alerting = Alerting(rules, model.card, model.profile, streams_of(server).counts(), told.append)
        with answering(server, model, alerting=alerting, batch=10) as answers:
            answers.wait(before + count)
        assert answers.prediction.tally.sums["rows"] == count

    answer(10, 15)
    assert told == []
    answer(10, 15)
    answer(10, 15)
    assert [(alert.rule, alert.start, alert.texts) for alert in told] == [("any", day + 36_000, 25)]
    answer(11, 30)
    assert [alert.start for alert in told] == [day + 36_000, day + 39_600]
    answer(100, 5)
    assert {key.partition(b" ")[0] for key in server.client.hgetall("answers:alerts")} == {b"%d" % (day + 360_000)}
    assert server.client.hget("answers:alerts", f"{day + 360_000} texts") == b"5"
