"""A watched folder, answered by a tiny student."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from potstill.artifacts import read_json
from potstill.config.alerts_params import Alerts, ShareRule
from potstill.config.predict_params import Predict
from potstill.errors import FetchError, OutputError
from potstill.prediction.alerting import Alert, Alerting, FileCounts
from potstill.prediction.arrival_metrics import FolderMetrics
from potstill.prediction.file_prediction import ChosenModel, predict_files
from potstill.prediction.folder_prediction import FolderPrediction
from potstill.prediction.output_parts import OutputParts
from tests.conftest import REPOSITORY, generate_rows
from tests.kills import kill_count, killed_in_write
from tests.potstill.prediction import predicting_folder
from tests.potstill.prediction.models import TEXTS, csv_bytes, read_lines, silent, tiny_model

pytestmark = pytest.mark.slow
GOOD = csv_bytes([["id", "text"], *enumerate(TEXTS[:20])])


@pytest.fixture(scope="module")
def model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ChosenModel:
    return tiny_model(tiny_base, tmp_path_factory.mktemp("model") / "serving", variant="fp32")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    return tmp_path


def watch(
    model: ChosenModel,
    folder: str = "in",
    output: str = "out",
    alerting: Alerting | None = None,
    metrics: FolderMetrics | None = None,
    **settings: Any,
) -> FolderPrediction:
    chosen, counted = Predict(threads=1, **settings), metrics or FolderMetrics()
    return FolderPrediction(folder, Path(output), model, ("text",), None, chosen, counted, alerting or silent(model))


def outputs() -> list[str]:
    return sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())


def test_a_file_is_answered_once_it_stays_the_same(model: ChosenModel, capsys: pytest.CaptureFixture[str]) -> None:
    watched = watch(model)
    half = len(GOOD) // 2
    Path("in/a.csv").write_bytes(GOOD[:half])
    Path("in/.part").write_bytes(GOOD)
    watched.scan()
    Path("in/a.csv").write_bytes(GOOD)
    Path("in/deep").mkdir()
    Path("in/.part").rename("in/deep/b.csv")
    Path("in/notes.txt").write_bytes(GOOD)
    watched.scan()
    assert not Path("out").exists()
    watched.scan()
    whole = ["a.csv.jsonl", "a.csv.jsonl.manifest.json", "deep/b.csv.jsonl", "deep/b.csv.jsonl.manifest.json"]
    assert outputs() == whole
    predict_files(["in/a.csv"], Path("alone.jsonl"), model, ("text",), None, Predict(threads=1))
    assert Path("out/a.csv.jsonl").read_bytes() == Path("alone.jsonl").read_bytes()
    assert "watch: in/a.csv: 20 rows, 0 rejected; out/a.csv.jsonl\n" in capsys.readouterr().out
    times = [os.stat(Path("out") / name).st_mtime_ns for name in whole]
    watched.scan()
    # A later champion leaves alone what an earlier one has answered.
    later = watch(replace(model, number="4", candidate="0" * 64))
    later.scan(), later.scan()
    assert [os.stat(Path("out") / name).st_mtime_ns for name in whole] == times
    assert capsys.readouterr().out == ""


def test_bad_files_are_put_aside_and_tried_again_when_they_change(
    model: ChosenModel, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = watch(model)
    Path("in/a.csv").write_bytes(csv_bytes([["id", "body"], [1, "x"]]))
    Path("in/b.csv").write_bytes(csv_bytes([["text"], *[[""]] * 9, ["x"]]))
    Path("in/c.jsonl.gz").write_bytes(b"no gzip")
    Path("in/d.csv").write_bytes(b"")
    Path("in/e.csv").write_bytes(GOOD)
    watched.scan(), watched.scan()
    said = capsys.readouterr().out
    codes = {
        name: read_json(Path(f"out/{name}.jsonl.failed.json")) for name in ("a.csv", "b.csv", "c.jsonl.gz", "d.csv")
    }
    assert [aside["exit_code"] for aside in codes.values()] == [20, 32, 30, 21]
    for name, aside in codes.items():
        assert f"watch: in/{name} is put aside: {aside['reason']}\n" in said
    assert len(read_lines(Path("out/e.csv.jsonl"))) == 20
    before = outputs()
    again = watch(model)
    again.scan(), again.scan()
    assert (capsys.readouterr().out, outputs()) == ("", before)
    for name in ("a.csv", "b.csv"):
        Path("in", name).write_bytes(GOOD)
    again.scan(), again.scan()
    assert len(read_lines(Path("out/a.csv.jsonl"))) == len(read_lines(Path("out/b.csv.jsonl"))) == 20
    assert not Path("out/a.csv.jsonl.failed.json").exists()
    assert not Path("out/b.csv.jsonl.failed.json").exists()


def test_another_file_of_the_same_name_is_put_aside(model: ChosenModel) -> None:
    watched = watch(model)
    Path("in/a.csv").write_bytes(GOOD)
    watched.scan(), watched.scan()
    answers = Path("out/a.csv.jsonl").read_bytes()
    Path("in/a.csv").write_bytes(GOOD + b"21,more\n")
    watched.scan(), watched.scan()
    aside = read_json(Path("out/a.csv.jsonl.failed.json"))
    assert aside["exit_code"] == 33
    assert "its input files are others, or have changed since" in aside["reason"]
    assert Path("out/a.csv.jsonl").read_bytes() == answers


def test_what_another_model_has_begun_is_begun_anew(model: ChosenModel) -> None:
    Path("in/a.csv").write_bytes(GOOD)
    other = replace(model, number="2")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OutputParts, "join", interrupt)
        begun = watch(other)
        begun.scan(), begun.scan()
    assert "a.csv.jsonl.parts/0000000.part" in outputs()
    watched = watch(model, watch_format="jsonl")
    watched.scan(), watched.scan()
    assert read_json(Path("out/a.csv.jsonl.manifest.json"))["run"]["version"] == model.number
    assert outputs() == ["a.csv.jsonl", "a.csv.jsonl.manifest.json"]


def test_metrics_count_files_and_rows_and_what_waits(model: ChosenModel) -> None:
    metrics = FolderMetrics()
    watched = watch(model, metrics=metrics)
    Path("in/a.csv").write_bytes(csv_bytes([["text"], *[[text] for text in TEXTS[:120]], [""]]))
    Path("in/b.csv").write_bytes(csv_bytes([["id", "body"], [1, "x"]]))
    counted = [
        *(("files_total", {"outcome": outcome}) for outcome in ("answered", "failed")),
        *(("rows_total", {"outcome": outcome}) for outcome in ("answered", "rejected")),
        ("failures_total", {}), ("waiting", {}), ("seconds_count", {}),
    ]  # fmt: skip

    def values() -> list[float | None]:
        return [metrics.registry.get_sample_value(f"potstill_folder_{name}", labels) for name, labels in counted]

    watched.scan()
    assert values() == [None, None, None, None, 0, 2, 0]
    watched.scan()
    assert values() == [1, 1, 120, 1, 0, 0, 1]
    Path("in").rename("away")
    watched.scan()
    assert values() == [1, 1, 120, 1, 1, 0, 1]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_alerts_of_files_are_told_once_also_after_a_restart(
    model: ChosenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 36_100.0)
    rules = Alerts(rules={"any": ShareRule(kind="share", label="negative", above=0.0)}, min_texts=30)
    told: list[Alert] = []
    for number in range(4):
        Path(f"in/{number}.csv").write_bytes(GOOD)
        counts = FileCounts(Path("out/.alerts.json"))
        watched = watch(model, alerting=Alerting(rules, model.card, model.profile, counts, told.append))
        watched.scan(), watched.scan()
    assert [(alert.rule, alert.start, alert.end, alert.texts) for alert in told] == [("any", 36_000, 39_600, 40)]
    assert read_json(Path("out/.alerts.json"))["36000 texts"] == 80


def test_a_folder_that_is_away_or_holds_the_answers_is_one_sentence(
    model: ChosenModel, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FetchError, match="other is not there or is no folder; create it, or name another one"):
        watch(model, "other")
    with pytest.raises(OutputError, match="in/out is in in, so that its answers would be answered; name another"):
        watch(model, output="in/out")
    with pytest.raises(OutputError, match=r"in/out is in file://.*/in, so that its answers would be answered"):
        watch(model, f"file://{Path.cwd()}/in", output="in/out")
    watched = watch(model)
    Path("in").rename("away")
    watched.scan()
    said = capsys.readouterr().out
    assert said == "watch: in is not there or is no folder; create it, or name another one; looking again in 2 s\n"
    Path("away").rename("in")
    Path("in/a.csv").write_bytes(GOOD)
    watched.scan(), watched.scan()
    assert "a.csv.jsonl" in outputs()


def test_the_parts_that_a_kill_has_left_of_a_complete_answer_are_removed(model: ChosenModel) -> None:
    Path("in/a.csv").write_bytes(GOOD)
    watched = watch(model)
    watched.scan(), watched.scan()
    Path("out/a.csv.jsonl.parts").mkdir()
    for name in ("lock", "0000000.part"):
        Path("out/a.csv.jsonl.parts", name).touch()
    watched = watch(model)
    watched.scan(), watched.scan()
    assert outputs() == ["a.csv.jsonl", "a.csv.jsonl.manifest.json"]


def test_kills_while_files_next_to_the_answers_are_written_leave_nothing(model: ChosenModel, folder: Path) -> None:
    Path("in/a.csv").write_bytes(b"")
    arguments = [str(model.serving), str(folder / "in"), str(folder / "out")]
    killed_in_write(predicting_folder.__name__, f"sys.argv[1:] = {arguments}\nmain()", folder)
    killed_in_write(FileCounts.__module__, "FileCounts(Path('out/.alerts.json')).add({})", folder)
    assert outputs() == ["..alerts.json.tmp", ".a.csv.jsonl.failed.json.tmp", ".alerts.lock"]
    Path("in/a.csv").write_bytes(GOOD)
    rules = Alerts(rules={"any": ShareRule(kind="share", label="negative", above=0.0)})
    counts = FileCounts(Path("out/.alerts.json"))
    watched = watch(model, alerting=Alerting(rules, model.card, model.profile, counts, print))
    watched.scan(), watched.scan()
    assert outputs() == [".alerts.json", ".alerts.lock", "a.csv.jsonl", "a.csv.jsonl.manifest.json"]


def test_killed_at_random_moments_every_file_is_answered_once(model: ChosenModel, folder: Path) -> None:
    kills = kill_count(4)
    names = [f"{number}.csv" for number in range(2 * kills)]
    for seed, name in enumerate(names):
        rows = [[text] for text, _ in generate_rows(300, seed=seed)]
        Path("in", name).write_bytes(csv_bytes([["text"], *rows]))
    generator = random.Random(3)
    module = "tests.potstill.prediction.predicting_folder"
    words = [sys.executable, "-m", module, str(model.serving), str(folder / "in"), str(folder / "out")]

    def answered(files: int) -> bool:
        return len(list(Path("out").glob("*.jsonl"))) >= files

    def run_until(reached: Callable[[], bool], seconds: float) -> None:
        process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        while not reached():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(seconds)
        process.kill()
        process.wait()

    begun = 0
    for files in range(1, len(names), 2):
        run_until(partial(answered, files), generator.uniform(0, 0.05))
        begun += any(Path("out").glob("*.parts/*.part"))
    run_until(lambda: answered(len(names)) and not list(Path("out").glob("*.parts")), seconds=0)
    print(f"{kills} kills over {len(names)} files of a folder, {begun} in the middle of a file: the same bytes")
    assert outputs() == sorted(f"{name}.jsonl{suffix}" for name in names for suffix in ("", ".manifest.json"))
    settings = Predict(threads=1, window_rows=50)
    for name in names:
        predict_files([str(folder / "in" / name)], folder / "whole" / f"{name}.jsonl", model, ("text",), None, settings)
        assert Path("out", f"{name}.jsonl").read_bytes() == Path("whole", f"{name}.jsonl").read_bytes()
