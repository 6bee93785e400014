"""`potstill drift` and `potstill feedback` over what a service of the champion would write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from flows.commands import judge_answers as watching
from flows.commands import triggered_runs
from flows.commands.params_changes import change_params
from potstill.artifacts import read_json
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.config.serving_params import Watch
from potstill.errors import DriftError, ParamsError, RegistryError
from potstill.inference.profile import answer_all, read_profile
from potstill.inference.runtime import Student, Text
from potstill.inference.window_store import candidate_location, open_store
from potstill.paths import ARTIFACTS, DRIFT, DRIFT_PAGE, FEEDBACK, TEST_PROFILE
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.registry.signatures import MODEL_SIGNATURE, sign_files
from potstill.registry.version_artifacts import SERVING
from potstill.registry.versions import candidate_sum
from potstill.serving.launch import SHADOW_FOLDER, WATCH_FOLDER
from potstill.serving.watcher import AnsweredRequest, Watcher
from tests.conftest import generate_rows
from tests.keys import write_keys
from tests.potstill.serving.folders import flip_byte, write_profile, write_workspace
from tests.receivers import Webhook
from tests.registries import (
    PROJECT,
    add_judged_version,
    add_version,
    model_folder,
    new_store,
    register_bento,
    write_bento,
)

TEXTS: list[Text] = [text for text, _ in generate_rows(200)]


@pytest.fixture(scope="module")
def registered(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a candidate in `data/serving`, and an empty registry."""
    folder = tmp_path_factory.mktemp("watching") / "workspace"
    folder.mkdir()
    write_workspace(tiny_base, folder, [str(text) for text in TEXTS])
    # Right on all test texts: of a random model by chance so few are that nothing could be less.
    student = Student(folder / SERVING, 1)
    right = [student.card.labels.index(answer.label) for answer in answer_all(student, TEXTS)]
    write_profile(folder / SERVING, TEXTS, folder / TEST_PROFILE, right)
    return new_store(folder)


@pytest.fixture
def workspace(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(registered, tmp_path / "workspace"))
    monkeypatch.chdir(folder)
    for name in (WATCH_FOLDER, SHADOW_FOLDER):
        monkeypatch.delenv(name, raising=False)
    return folder


def promote(folder: Path) -> str:
    """Make the candidate the champion; its sum."""
    registry, serving = Registry(folder, PROJECT), folder / "data/serving"
    shutil.copytree(serving, folder / "model" / SERVING)
    version = register_bento(registry, write_bento(folder / "bentos" / "1", serving), folder / "model", "potstill-x:1")
    registry.promote(version.version, expected=None)
    return version.candidate


def serve(folder: Path, place: str, candidate: str, texts: list[Text], name: str) -> list[Any]:
    """What a service writes that is asked about texts, ten a request."""
    student = Student(folder / "data/serving", 1)
    profile = read_profile(folder / TEST_PROFILE, candidate)
    store = open_store(candidate_location(place, candidate))
    watcher = Watcher(profile, student.card, Watch(), CollectorRegistry(), bento="n:1", store=store)
    watcher.start()
    answers = answer_all(student, texts)
    for start in range(0, len(texts), 10):
        part = slice(start, start + 10)
        rows = student.predict_work(texts[part]).rows
        watcher.observe(AnsweredRequest(f"{name}-{start // 10}", texts[part], rows, answers[part], 0.0))
    watcher.close()
    return answers


def params_with(workspace: Path, monkeypatch: pytest.MonkeyPatch, **watch: Any) -> Params:
    params = load_params(workspace / "params.yaml")
    changed = params.model_copy(update={"watch": Watch(**watch)})
    monkeypatch.setattr(watching, "load_params", lambda path: changed)
    return changed


def last_run(folder: Path, name: str) -> Any:
    runs = tracking.client(folder).search_runs(
        [tracking.experiment_id(folder, PROJECT)], f"tags.`potstill.stage` = '{name}'", max_results=1
    )
    return runs[0].data


@pytest.mark.slow
def test_the_verdict_is_said_written_logged_and_told_by_an_error(
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    receiver: Webhook,
) -> None:
    params_with(workspace, monkeypatch, min_texts=100, folder=str(tmp_path / "watch"))
    change_params(workspace / "params.yaml", None, [f'notify.webhooks=["{receiver.url}"]'])
    candidate, place = promote(workspace), str(tmp_path / "watch")
    monkeypatch.chdir(workspace)  # as a worker of Prefect does
    with pytest.raises(RegistryError, match="has written to"):
        watching.drift(workspace, place, retrain=False)
    answers = serve(workspace, place, candidate, TEXTS, "same")
    watching.drift(workspace, place, retrain=False)
    output = capsys.readouterr().out
    assert "no drift: 200 texts are like the test texts; estimated accuracy" in output
    report = read_json(workspace / DRIFT)
    assert (report["verdict"], report["texts"], report["candidate"]) == ("no drift", 200, candidate)
    assert "<svg" in (workspace / DRIFT_PAGE).read_text(encoding="utf-8")
    assert last_run(workspace, "drift").metrics["drift"] == 0
    assert last_run(workspace, "drift").params["verdict"] == "no drift"
    assert triggered_runs._no_drift() == "what the service reads has not drifted"

    serve(workspace, place, candidate, ["12345 67890 !!!"] * 400, "other")
    with pytest.raises(DriftError, match=r"drift over 600 texts: .*vector.*`potstill run`"):
        watching.drift(workspace, place, retrain=False)
    assert last_run(workspace, "drift").metrics["drift"] == 1
    assert triggered_runs._no_drift() is None
    started: list[Path] = []
    monkeypatch.setattr("flows.commands.run_workspace.execute", lambda folder, file, settings: started.append(folder))
    watching.drift(workspace, place, retrain=True)
    assert started == [workspace]

    labels = tmp_path / "labels.csv"
    rows = [f"same-{at // 10},{at % 10},{answer.label}" for at, answer in enumerate(answers)]
    labels.write_text("\n".join(["request_id,position,label", *rows]), encoding="utf-8")
    watching.feedback(workspace, labels, place)
    assert "accuracy 100.0% (98.1–100.0) on 200 of 200 labels" in capsys.readouterr().out
    assert read_json(workspace / FEEDBACK)["value"] == 1
    assert last_run(workspace, "feedback").metrics["value"] == 1
    swapped = labels.read_text().replace("negative", "x").replace("positive", "negative").replace("x", "positive")
    labels.write_text(swapped, encoding="utf-8")
    with pytest.raises(DriftError, match=r"right less often: accuracy 0\.0%"):
        watching.feedback(workspace, labels, place)
    assert receiver.events() == ["drift"] * 4
    assert receiver.messages[-1]["text"].startswith("the model is right less often: accuracy 0.0%")


def test_without_a_place_or_a_champion(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RegistryError, match="has no champion yet"):
        watching.drift(workspace, None, retrain=False)
    params_with(workspace, monkeypatch, folder=None)
    with pytest.raises(ParamsError, match=r"watch\.folder is null"):
        watching.feedback(workspace, Path("labels.csv"), None)


def test_services_are_told_where_to_write(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching.watch_service(workspace, params_with(workspace, monkeypatch))
    assert os.environ[WATCH_FOLDER] == str(workspace / "watch")
    assert SHADOW_FOLDER not in os.environ
    watching.watch_service(workspace, params_with(workspace, monkeypatch, folder="/elsewhere"))
    assert os.environ[WATCH_FOLDER] == str(workspace / "watch")
    monkeypatch.delenv(WATCH_FOLDER)
    watching.watch_service(workspace, params_with(workspace, monkeypatch, folder=None))
    assert WATCH_FOLDER not in os.environ


@pytest.mark.slow
def test_a_service_takes_the_challenger_along(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching.shadow_service(workspace, params_with(workspace, monkeypatch, shadow=0.5))
    assert SHADOW_FOLDER not in os.environ  # there is no challenger
    added = add_version(Registry(workspace, PROJECT), "another")
    watching.shadow_service(workspace, params_with(workspace, monkeypatch))
    assert SHADOW_FOLDER not in os.environ  # nobody asked for one
    watching.shadow_service(workspace, params_with(workspace, monkeypatch, shadow=0.5))
    assert candidate_sum(Path(os.environ[SHADOW_FOLDER])) == added.candidate
    monkeypatch.delenv(SHADOW_FOLDER)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a flipped byte", "no artifacts", "no store"])
def test_a_challenger_that_is_not_whole_is_left_out_and_said(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    add_version(Registry(workspace, PROJECT), "another")
    artifacts = workspace / ARTIFACTS
    if damage == "a flipped byte":
        flip_byte(next(artifacts.rglob("model.onnx")))
    elif damage == "no artifacts":
        shutil.rmtree(artifacts)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://nowhere")
    watching.shadow_service(workspace, params_with(workspace, monkeypatch, shadow=0.5))
    assert SHADOW_FOLDER not in os.environ
    assert "serve: the challenger is left out: " in capsys.readouterr().out


@pytest.mark.slow
def test_a_challenger_is_taken_along_only_with_the_signature_that_is_required(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = write_keys(tmp_path / "keys")
    params = params_with(workspace, monkeypatch, shadow=0.5).model_copy(update={"sign": keys})
    registry = Registry(workspace, PROJECT)
    add_version(registry, "unsigned")
    watching.shadow_service(workspace, params)
    assert SHADOW_FOLDER not in os.environ
    assert "the challenger is left out: " in (said := capsys.readouterr().out)
    assert "has no signature" in said
    signature = tmp_path / MODEL_SIGNATURE
    sign_files(model_folder(tmp_path / "model", "signed") / SERVING, signature, keys, workspace)
    added = add_judged_version(registry, "signed", range(1), files={MODEL_SIGNATURE: signature})
    watching.shadow_service(workspace, params)
    assert candidate_sum(Path(os.environ[SHADOW_FOLDER])) == added.candidate
    monkeypatch.delenv(SHADOW_FOLDER)
