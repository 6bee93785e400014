"""Answers whose words are weighed: which they are, and that the service weighs them alike."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from potstill.artifacts import write_json, write_manifest
from potstill.config.predict_params import Predict
from potstill.errors import OutputError, ParamsError
from potstill.inference.runtime import ModelCard
from potstill.prediction.explained_rows import LEAST_CERTAIN, MOST_ALARMING, ExplanationPlan, plan_explanations
from potstill.prediction.file_prediction import ChosenModel, Predicted, predict_files
from potstill.prediction.output_parts import OutputParts
from tests.potstill.prediction.models import TEXTS, csv_bytes, model_of, read_lines, tiny_model
from tests.potstill.serving.folders import LABELS, TAGS, card, write_serving
from tests.potstill.serving.test_app import Service

OUT = Path("out.jsonl")
EXPLAINED = Path("out.jsonl.explained.jsonl")


@pytest.fixture(scope="module")
def model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ChosenModel:
    return tiny_model(tiny_base, tmp_path_factory.mktemp("int8") / "serving")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def explain(
    model: ChosenModel, count: int = 3, alarm: str | None = None, texts: tuple[str, ...] = ("text",)
) -> Predicted:
    plan = plan_explanations(model.card, count, alarm, model.explained_words)
    settings = Predict(threads=1, window_rows=20, max_rejected_share=0.5)
    return predict_files(["in.csv"], OUT, model, texts, (), settings, plan)


def write_rows(texts: list[str]) -> None:
    Path("in.csv").write_bytes(csv_bytes([["id", "text"], *enumerate(texts)]))


def test_the_least_certain_and_the_most_alarming_different_texts_are_explained_as_the_service_does(
    model: ChosenModel,
) -> None:
    write_rows([*TEXTS[:60], "", *TEXTS[:60]])
    explain(model, alarm="positive")
    answers = [row["model_probabilities"] for row in read_lines(OUT)]
    rows = read_lines(EXPLAINED)
    least = sorted(range(60), key=lambda index: max(answers[index].values()))[:3]
    alarming = sorted(range(60), key=lambda index: -answers[index]["positive"])[:3]
    assert [(row["chosen"], row["row"] - 1) for row in rows] == [
        *((LEAST_CERTAIN, index) for index in least),
        *((MOST_ALARMING, index) for index in alarming),
    ]
    service = Service(model.serving)
    service.gate.set()
    with TestClient(service.app) as http:
        for row in rows:
            assert (row["file"], row["text"]) == ("in.csv", TEXTS[row["row"] - 1])
            assert row["confidence"] == pytest.approx(max(answers[row["row"] - 1].values()))
            label = {"label": "positive"} if row["chosen"] == MOST_ALARMING else {}
            served = http.post("/v1/explain", json={"text": row["text"], **label}).json()
            assert {name: row[name] for name in ("label", "score", "weights", "truncated")} == {
                name: value for name, value in served.items() if name != "model"
            }


def test_an_interrupted_run_goes_on_with_the_same_explanations(
    model: ChosenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(TEXTS[:60])
    explain(model, alarm="negative")
    whole = EXPLAINED.read_bytes()
    for path in (OUT, EXPLAINED, Path("out.jsonl.manifest.json")):
        path.unlink()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for method in ("write_explained", "join"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(OutputParts, method, killed)
            explain(model, alarm="negative")
        Path("out.jsonl.parts/0000001.json").unlink()
    explain(model, alarm="negative")
    assert EXPLAINED.read_bytes() == whole
    EXPLAINED.unlink()
    assert explain(model, alarm="negative").rows == 60
    assert EXPLAINED.read_bytes() == whole
    assert explain(model, alarm="negative").rows == 0
    with pytest.raises(OutputError, match=r'belongs to another run: explain {"alarm": 0, .*} there, {"count": 4, .*}'):
        explain(model, 4)


@pytest.mark.parametrize("pair", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_labels_nearest_to_one_half_and_pairs(tiny_base: Path, folder: Path, pair: bool) -> None:
    serving = write_serving(tiny_base, folder / "serving", pair=pair)
    if not pair:
        write_json(serving / "model.json", card(task="multi_label"))
        write_manifest(serving)
    texts = ("text", "second")[: 1 + pair]
    rows = [[text, text[:20]] for text in TEXTS[:30]]
    Path("in.csv").write_bytes(csv_bytes([["text", "second"], *rows]))
    explain(model_of(serving, [tuple(row) if pair else row[0] for row in rows]), 30, texts=texts)
    answers = [row["model_probabilities"] for row in read_lines(OUT)]
    explained = read_lines(EXPLAINED)
    assert sorted(row["row"] for row in explained) == list(range(1, 31))
    for row in explained:
        shares = answers[row["row"] - 1]
        if pair:
            assert row["text"] == rows[row["row"] - 1]
            assert {word["part"] for word in row["weights"]} == {0, 1}
        else:
            assert row["label"] == min(LABELS, key=lambda name: abs(shares[name] - 0.5))


def test_the_choice_among_windows_is_that_of_all_rows_and_of_equal_texts_the_first() -> None:
    generator = random.Random(2)
    ranks = [generator.randrange(50) / 50 for _ in range(400)]
    texts = [f"text {index % 300}" for index in range(400)]
    ranks[300:] = ranks[:100]
    plan = ExplanationPlan(25, None, 31)
    windows = []
    for start in range(0, 400, 40):
        order = sorted(range(40), key=lambda row: ranks[start + row])[:25]
        candidates = [(ranks[start + row], row, texts[start + row]) for row in order]
        windows.append({"file": "f", "rows": 40, "candidates": {LEAST_CERTAIN: candidates}})
    chosen = plan.choose(windows)[LEAST_CERTAIN]
    assert [candidate.row - 1 for candidate in chosen] == sorted(range(300), key=lambda row: (ranks[row], row))[:25]


def test_what_cannot_be_explained_is_one_sentence(model: ChosenModel) -> None:
    with pytest.raises(ParamsError, match="no label 'Positive' that could alarm; name one of negative, positive"):
        plan_explanations(model.card, 3, "Positive", 31)
    tagging = ModelCard(**card(task="token_classification", labels=TAGS))
    with pytest.raises(ParamsError, match="needs a model of classes or labels; this one is for token_classification"):
        plan_explanations(tagging, 3, None, 31)
