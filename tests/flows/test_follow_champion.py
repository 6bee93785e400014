"""`potstill serve --follow` as a process, with a real registry and real Bentos, under load."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.commands.follow_champion import KEY_NAME, RegistryProcess, Roles, RolesWatch, Supervisor, Worker, _variables
from potstill.artifacts import read_json, write_json, write_manifest
from potstill.compute.processes import free_port
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import PackageError, SignatureError
from potstill.paths import ARTIFACTS
from potstill.registry.promotion import Registry
from potstill.registry.version_artifacts import SERVING
from potstill.registry.versions import Version
from potstill.serving.keys import Keys, key_entry
from potstill.serving.launch import bento_path
from potstill.serving.release import verify_seal
from tasks.package import package
from tests.conftest import generate_rows
from tests.flows.conftest import REPOSITORY, until
from tests.keys import write_keys
from tests.potstill.serving.folders import flip_byte, processes_with, write_workspace
from tests.potstill.serving.load import load
from tests.registries import PROJECT, add_version, new_store, register_bento

pytestmark = pytest.mark.slow

TEXTS = [text for text, _ in generate_rows(6)]
BODY = {"texts": TEXTS[:2]}


@dataclass(frozen=True)
class Place:
    """A workspace with two Bentos in the store, and no champion yet."""

    folder: Path
    tags: list[str]


def with_shadow(params: Params) -> Params:
    """Other limits, so that it makes another Bento, whose service takes a challenger along where there is one."""
    changes = {
        "serve": params.serve.model_copy(update={"max_texts": 3}),
        "watch": params.watch.model_copy(update={"shadow": 1.0}),
    }
    return params.model_copy(update=changes)


@pytest.fixture(scope="module")
def packaged(slow: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = write_workspace(tiny_base, tmp_path_factory.mktemp("follow") / "workspace", TEXTS)
    params = load_params(folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder.parent / "bentoml"))
        return Place(folder, [package(params, folder).tag, package(with_shadow(params), folder).tag])


@pytest.fixture
def place(packaged: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    folder = Path(shutil.copytree(packaged.folder.parent, tmp_path / "home")) / "workspace"
    new_store(folder)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home/bentoml"))
    return Place(folder, packaged.tags)


class Following:
    """`potstill serve --follow`, and what it has said."""

    def __init__(self, place: Place) -> None:
        self.log = place.folder / "follow.txt"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "flows.cli", "serve", "--follow", "--port", str(self.port), "--every", "0.2"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=place.folder,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=output,
                stderr=output,
            )

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait(self, word: str, seconds: float = 150) -> float:
        """Until it has said so; the seconds it took."""
        begin = time.monotonic()
        assert until(lambda: re.search(word, self.said()) or self.process.poll() is not None, seconds), self.said()
        assert re.search(word, self.said()), self.said()
        return time.monotonic() - begin

    def bento(self) -> str:
        with urllib.request.urlopen(f"{self.address}/info", timeout=20) as response:
            return str(json.load(response)["bento"])

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.address}{path}", timeout=20) as response:
            return str(response.read().decode())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def end(self) -> None:
        """End what a failed test has left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def following(place: Place) -> Iterator[Following]:
    registry = Registry(place.folder, PROJECT)
    registry.promote(add_version(registry, "one", bento=place.tags[0]).version, expected=None)
    server = Following(place)
    try:
        server.wait("answers at")
        yield server
    finally:
        server.end()
    assert until(lambda: not processes_with(str(place.folder)), 10)


def promote(place: Place, content: str, tag: str) -> None:
    registry = Registry(place.folder, PROJECT)
    champion = registry.champion()
    registry.promote(add_version(registry, content, bento=tag).version, expected=champion.version if champion else None)


def test_a_new_champion_takes_over_without_a_lost_request(place: Place, following: Following) -> None:
    old, new = place.tags
    assert following.bento() == old
    with load(following.address, BODY, pause_seconds=0.03) as seen:
        time.sleep(0.5)
        promote(place, "two", new)
        following.wait(f"{new} answers now, {old} is drained")
        handed = time.monotonic()
        time.sleep(0.5)
    assert seen.failures == []
    assert set(seen.statuses) == {200}
    assert set(seen.by_bento()) == {old, new}
    assert {bento for moment, bento in seen.bentos if moment > handed + 0.2} == {new}
    assert not processes_with(old)
    assert following.stop() == 0
    assert "Traceback" not in following.said()
    # Every answer is in a window of the one that gave it, and what either was tried with is in none.
    windows = [json.loads(path.read_text()) for path in place.folder.glob("watch/*/*.counts.json")]
    watched = {tag: sum(window["texts"] for window in windows if window["bento"] == tag) for tag in place.tags}
    assert watched == {tag: answers * len(BODY["texts"]) for tag, answers in seen.by_bento().items()}


def test_a_bento_that_is_not_whole_is_not_served_and_the_old_one_stays(place: Place, following: Following) -> None:
    old, new = place.tags
    flip_byte(bento_path(new) / "src/data/serving/model.onnx")
    with load(following.address, BODY, clients=2, pause_seconds=0.03) as seen:
        promote(place, "two", new)
        following.wait(f"{old} stays; {new} is not served: {new} did not start")
    assert "model.onnx is altered" in following.said()
    assert seen.failures == []
    assert set(seen.by_bento()) == {old}
    # One that is not in the store at all is fetched from the registry; this one no service can be made of.
    promote(place, "three", "potstill-movie-reviews:other")
    following.wait("potstill-movie-reviews:other is not served: potstill-movie-reviews:other was packaged before")
    assert verify_seal(bento_path("potstill-movie-reviews:other")) is None
    assert following.said().count(f"{new} is not served") == 1  # it is not tried again for nothing
    assert following.bento() == old
    assert following.stop() == 0


def test_a_bento_that_answers_otherwise_than_evaluated_is_not_served(place: Place, following: Following) -> None:
    import pyarrow.parquet as pq

    old, new = place.tags
    predictions = place.folder / "data/evaluation/predictions.parquet"
    table = pq.read_table(predictions)
    moved = [[first + 1.0, second] for first, second in table["int8"].to_pylist()]
    pq.write_table(table.set_column(table.column_names.index("int8"), "int8", [moved]), predictions)
    promote(place, "two", new)
    following.wait(f"{old} stays; {new} is not served: the Bento gives test text .* over smoke.tolerance")
    assert following.bento() == old
    # A later run has left another candidate's evaluation: then its own model outside the service is what it is held to.
    shutil.rmtree(place.folder / "data/serving")
    promote(place, "three", new)
    following.wait(f"{new} answers now")


def test_a_killed_worker_is_replaced_and_no_connection_refused(place: Place, following: Following) -> None:
    (worker,) = [pid for pid in processes_with("potstill.serving.worker") if _parent(pid) == following.process.pid]
    begin = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    assert following.bento() == place.tags[0]  # it waits in the listening socket, which the supervisor holds
    assert time.monotonic() - begin < 10
    assert "ended (signal SIGKILL) and is started again" in following.said()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_sigterm_under_load_answers_what_was_accepted(following: Following) -> None:
    with load(following.address, BODY) as seen:
        time.sleep(1)
        following.process.send_signal(signal.SIGTERM)
        assert following.process.wait(60) == 0
    assert seen.statuses[200] > 20
    assert set(seen.statuses) == {200}
    # After the last answer there is nobody any more; before, no connection that was made may end without one.
    assert {failure.partition("(")[0] for failure in seen.failures} == {"ConnectionRefusedError"}


def test_a_service_with_keys_is_tried_with_one_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(place.folder, PROJECT)
    registry.promote(add_version(registry, "one", bento=place.tags[0]).version, expected=None)
    monkeypatch.setenv("POTSTILL_API_KEYS", key_entry("me", "mine"))
    server = Following(place)
    try:
        server.wait("answers at")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.bento()
        request = urllib.request.Request(f"{server.address}/info", headers={"authorization": "Bearer mine"})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert json.load(response)["bento"] == place.tags[0]
        assert server.stop() == 0
    finally:
        server.end()


def test_the_users_keys_may_end_in_a_comment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POTSTILL_API_KEYS", f"{key_entry('me', 'mine')}  # until May")
    keys = Keys.read(_variables(tmp_path, "its", None))
    assert (keys.owner("Bearer mine"), keys.owner("Bearer its")) == ("me", KEY_NAME)


def challenge(place: Place, temperature: float) -> Version:
    """Register the workspace's student with another temperature, and the Bento that takes a challenger along."""
    model, registry = place.folder / "model", Registry(place.folder, PROJECT)
    serving = Path(shutil.copytree(place.folder / SERVING, model / SERVING))
    write_json(serving / "model.json", read_json(serving / "model.json") | {"temperature": temperature})
    write_manifest(serving)
    version = register_bento(registry, bento_path(place.tags[1]), model, place.tags[1])
    shutil.rmtree(model)
    return version


def test_a_challenger_comes_and_goes_and_a_broken_one_never_stops_the_champion(place: Place) -> None:
    tag = place.tags[1]
    promote(place, "one", tag)
    params = place.folder / "params.yaml"
    params.write_text(re.sub(r"^watch:.*$", "watch:\n  shadow: 1.0", params.read_text(), flags=re.MULTILINE))
    artifacts = place.folder / ARTIFACTS
    before = set(artifacts.rglob("model.onnx"))
    challenge(place, 3.0)
    flip_byte(*set(artifacts.rglob("model.onnx")) - before)
    server = Following(place)
    try:
        server.wait(f"{tag} answers at")
        assert re.search(r"the challenger is left out: .*model\.onnx", server.said())
        assert "Traceback" not in server.said()
        assert json.loads(server.text("/info"))["bento"] == tag
        server.text("/readyz")  # or it raises
        assert "potstill_shadow" not in server.text("/metrics")
        whole = challenge(place, 2.0)
        server.wait(f"{tag} answers with version {whole.version} as its challenger now")
        assert re.search(r"potstill_shadow_riding\{model=.*\} 1\.0", server.text("/metrics"))
        Registry(place.folder, PROJECT).veto(whole.version, "no better")
        server.wait(f"{tag} answers with no challenger now")
        assert "potstill_shadow" not in server.text("/metrics")
        assert server.stop() == 0
    finally:
        server.end()


class Answers(RegistryProcess):
    """A registry that gives these answers, one at each look."""

    def __init__(self, *answers: Roles | Exception) -> None:
        self.answers = iter(answers)

    def call(self, *_: object) -> Any:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_look_that_fails_misses_no_champion(capsys: pytest.CaptureFixture[str]) -> None:
    old, new = Roles("1", "n:a", None), Roles("2", "n:b", None)
    watch = RolesWatch(old, 0.0, Answers(OSError("database is locked"), new, new, new))
    assert watch.change(old) is None
    assert "n:a stays: OSError: database is locked" in capsys.readouterr().out
    assert watch.change(old) == new
    assert watch.change(old) is None  # it was tried, and is tried again only later
    watch._silent_until = 0.0
    assert watch.change(old) == new


def test_a_champion_that_comes_back_is_tried_at_once() -> None:
    old, new = Roles("1", "n:a", None), Roles("2", "n:b", None)
    watch = RolesWatch(old, 0.0, Answers(new, old, new))
    assert [watch.change(old) for _ in range(3)] == [new, None, new]


def test_what_stops_it_before_it_serves_is_one_sentence(place: Place) -> None:
    def run(*words: str, follow: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", "serve", *(["--follow"] if follow else []), *words],
            cwd=place.folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )

    both = run("--tag", "a:b")
    assert both.returncode == 2
    assert "a fixed tag cannot be followed" in both.stderr
    nobody = run()
    assert (nobody.returncode, nobody.stderr.count("\n")) == (50, 1)
    assert "has no champion yet" in nobody.stderr
    registry = Registry(place.folder, PROJECT)
    registry.promote(add_version(registry, "one", bento=place.tags[0]).version, expected=None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = [run("--port", str(taken.getsockname()[1]), follow=follow) for follow in (True, False)]
    assert "cannot listen on 127.0.0.1 port" in busy[0].stderr
    assert [(end.returncode, end.stderr) for end in busy] == [(60, busy[0].stderr)] * 2
    assert busy[0].stderr.count("\n") == 1


def test_a_bento_of_an_older_version_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="a:b was packaged before --follow was there"):
        Worker.start(Roles("1", "a:b", None), tmp_path, None)


def test_a_bento_without_the_signature_that_is_required_is_not_started(place: Place, tmp_path: Path) -> None:
    params = load_params(place.folder / "params.yaml").model_copy(update={"sign": write_keys(tmp_path / "keys")})
    with socket.socket() as listener:
        supervisor = Supervisor(place.folder, params, listener, None, None)  # type: ignore[arg-type]
        with pytest.raises(SignatureError, match="has no signature"):
            supervisor.switch(Roles("1", place.tags[0], None))
    assert supervisor.worker is None
