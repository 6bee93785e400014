from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from potstill.artifacts import write_json
from potstill.errors import ModelError
from potstill.inference.profile import (
    Answer,
    Counts,
    Moments,
    Observation,
    Profile,
    build_profile,
    confidences,
    feature_values,
    read_profile,
    read_vocabulary,
)
from potstill.inference.runtime import ModelCard, Prediction
from potstill.kinds.definitions.question_answering import Reply
from potstill.kinds.definitions.token_classification import Entity, Tagging
from tests.conftest import generate_rows
from tests.potstill.serving.folders import card

WORDS = ["[UNK]", "[CLS]", "good", "bad", "film", "plot"]


def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.add_special_tokens(["[UNK]", "[CLS]"])
    return tokenizer


def model_card(task: str = "classification", labels: Sequence[Any] = ("no", "yes"), **more: Any) -> ModelCard:
    return ModelCard.model_validate(card(task=task, labels=list(labels), **more))


def prediction(label: Any, *probabilities: float) -> Prediction:
    return Prediction(label, list(probabilities), [0.0], 3, False, tuple(range(16)))


def observe(*answers: Answer, ids: Sequence[int] = (1, 2, 4)) -> list[Observation]:
    return [Observation("good film", ids, answer) for answer in answers]


def profile_of(rows: Sequence[Observation], model: ModelCard, correct_shares: Any = None) -> Profile:
    return build_profile(rows, model, word_tokenizer(), "c" * 64, correct_shares)


def test_the_features_of_a_text() -> None:
    rows = [
        Observation("good film", [1, 2, 4], prediction("yes", 0.1, 0.9)),
        Observation(("a", "bcd"), [1, 0, 0, 3, 5], prediction("no", 0.6, 0.4)),
        Observation("", [1], prediction("no", 0.5, 0.5)),
    ]
    values = feature_values(rows, model_card(), read_vocabulary(word_tokenizer()))
    assert values["characters"].ravel().tolist() == [9, 4, 0]
    assert values["tokens"].ravel().tolist() == [3, 5, 1]
    assert values["unknown"].ravel().tolist() == [0, 0.5, 0]  # special tokens do not count
    assert values["confidence"].ravel().tolist() == [0.9, 0.6, 0.5]
    assert values["label"].ravel().tolist() == [1, 0, 0]
    assert values["vector"].shape == (3, 16)
    assert not values["vector"][2].any()
    assert values["embedding"].tolist() == [list(range(16))] * 3


def test_the_sketch_depends_on_the_tokens_but_not_on_their_order_or_number() -> None:
    model = model_card()
    vocabulary = read_vocabulary(word_tokenizer())

    def sketch(*ids: int) -> Any:
        return feature_values(observe(prediction("no", 1, 0), ids=ids), model, vocabulary)["vector"][0]

    assert (sketch(1, 2, 4) == sketch(4, 2, 1)).all()
    assert (sketch(2) != sketch(3)).any()
    assert set(np.abs(sketch(2))) == {1.0}
    random = np.random.default_rng(1)
    many = np.array([sketch(*random.integers(2, 30_000, size=200)) for _ in range(300)])
    np.testing.assert_allclose(many.mean(axis=0), 0, atol=0.25)
    np.testing.assert_allclose(many.std(axis=0), 1, atol=0.15)


def test_the_memory_of_the_features_does_not_multiply_the_tokens() -> None:
    rows = observe(*[prediction("no", 1, 0)] * 100, ids=range(1000))
    model = model_card()
    vocabulary = read_vocabulary(word_tokenizer())
    tracemalloc.start()
    feature_values(rows, model, vocabulary)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / 100_000 < 80  # bytes a token: 270 with the signs of all directions at once


def test_the_vocabulary_of_a_tokenizer() -> None:
    assert read_vocabulary(word_tokenizer()).model_dump() == {"unknown": 0, "special": [1]}
    unigram = Tokenizer(models.Unigram([("a", -1.0), ("<u>", -2.0)], unk_id=1, byte_fallback=False))  # type: ignore[call-arg]
    assert read_vocabulary(unigram).unknown == 1
    assert read_vocabulary(Tokenizer(models.BPE())).unknown is None


TASKS: dict[str, tuple[ModelCard, list[Answer], set[str]]] = {
    "classification": (
        model_card(),
        [prediction("no", 0.8, 0.2), prediction("yes", 0.1, 0.9)],
        {"label", "confidence", "embedding"},
    ),
    "multi_label": (
        model_card("multi_label", ["a", "b"]),
        [prediction(["a", "b"], 0.8, 0.6), prediction([], 0.1, 0.3)],
        {"label", "confidence", "embedding"},
    ),
    "regression": (model_card("regression", ["score"]), [prediction(1.5), prediction(-2.0)], {"number", "embedding"}),
    "token_classification": (
        model_card("token_classification", ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]),
        [Tagging([Entity("PER", 0, 4, "good", 0.9), Entity("LOC", 5, 9, "film", 0.5)], 2, 0.9), Tagging([], 1, 0.9)],
        {"label", "confidence", "entities"},
    ),
    "question_answering": (
        model_card("question_answering", ["start", "end"], pair=True, inputs=["input_ids"]),
        [Reply("film", 5, 9, 0.7, 2), Reply(None, 0, 0, 0.4, 1)],
        {"answered", "confidence", "windows"},
    ),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_features_and_counts_its_texts(task: str, tmp_path: Path) -> None:
    task_card, answers, features = TASKS[task]
    rows = observe(*answers)
    profile = profile_of(rows, task_card)
    assert set(profile.features) == {"characters", "tokens", "unknown", "vector"} | features
    assert all(bins.counts[0] == bins.counts[-1] == 0 for bins in profile.features["tokens"].bins)
    write_json(tmp_path / "profile.json", profile.model_dump(mode="json"))
    loaded = read_profile(tmp_path / "profile.json", "c" * 64)
    assert (loaded, loaded.sum) == (profile, profile.sum)
    counts = Counts(profile)
    counts.add(rows, task_card)
    for name, feature in profile.features.items():
        assert [column.tolist() for column in counts.bins[name]] == [bins.counts for bins in feature.bins], name
        assert counts.shift(name)[0] == 0
    assert (counts.texts, counts.truncated) == (2, 0)


def test_every_task_has_the_confidence_of_the_whole_answer() -> None:
    scores = {task: confidences(observe(*answers)).tolist() for task, (_, answers, _) in TASKS.items()}
    assert scores["classification"] == [0.8, 0.9]
    assert scores["multi_label"] == pytest.approx([0.7, 0.8])
    assert np.isnan(scores["regression"]).all()
    assert scores["token_classification"][0] == pytest.approx(0.7)
    assert np.isnan(scores["token_classification"][1])
    assert scores["question_answering"] == [0.7, 0.4]


def test_values_outside_the_evaluated_range_have_separate_bins() -> None:
    model = model_card()
    profile = profile_of([Observation("a" * length, [1], prediction("no", 1, 0)) for length in range(10, 60)], model)
    counts = Counts(profile)
    counts.add([Observation("a" * length, [1], prediction("no", 1, 0)) for length in (3, 9, 60, 900, 59)], model)
    counted = counts.bins["characters"][0]
    assert (counted[0], counted[-1], counted[-2], counted.sum()) == (2, 2, 1, 5)
    # A feature that is constant in the test texts, with another value here.
    other = Counts(profile)
    other.add([Observation("a" * 20, [1, 1], prediction("no", 1, 0))] * 9, model)
    assert other.shift("tokens") == (pytest.approx(2 * 0.9999 * np.log(1e4), rel=1e-3), 1.0)
    assert other.shift("label") == (0, None)


def test_merged_counts_equal_counts_of_all_texts() -> None:
    model = model_card()
    rows = [
        Observation(text, [1, 2 + len(text) % 4, 4], prediction("no", 1 - at / 200, at / 200))
        for at, (text, _) in enumerate(generate_rows(80))
    ]
    profile = profile_of(rows[:50], model)
    whole, parts = Counts(profile), Counts(profile)
    whole.add(rows, model)
    for part in (rows[:10], rows[10:]):
        counts = Counts(profile)
        counts.add(part, model)
        parts.merge(json.loads(json.dumps(counts.to_json())))
    assert parts.to_json()["counts"] == whole.to_json()["counts"]
    assert parts.confidence.mean == pytest.approx(whole.confidence.mean)
    damaged = whole.to_json() | {"counts": {**whole.to_json()["counts"], "tokens": [[1]]}}
    with pytest.raises(ValueError, match="other bins"):
        parts.merge(damaged)
    assert parts.texts == 80


def test_moments() -> None:
    values = np.random.default_rng(0).random(100)
    moments = Moments().with_values(values[:30]).merged(Moments().with_values(values[30:]))
    assert (moments.rows, moments.mean) == (100, pytest.approx(values.mean()))
    assert moments.variance == pytest.approx(values.var(ddof=1))
    assert Moments().with_values(values[:1]).variance == 0


def test_correctness_is_compared_with_confidence() -> None:
    rows = observe(*(prediction("no", p, 1 - p) for p in (0.6, 0.8, 0.9, 0.7)))
    right = profile_of(rows, model_card(), np.array([1.0, 1.0, 0.0, 1.0])).right
    assert right is not None
    assert right.share.mean == 0.75
    assert right.gap.mean == pytest.approx(0)
    assert profile_of(rows, model_card()).right is None


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"format": 2}'])
def test_a_file_in_another_format_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_bytes(content)
    with pytest.raises(ModelError, match="no profile of this version"):
        read_profile(tmp_path / "profile.json", "c" * 64)


def test_the_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    profile = profile_of(observe(prediction("no", 1, 0)), model_card())
    write_json(tmp_path / "profile.json", profile.model_dump(mode="json"))
    with pytest.raises(ModelError, match="of another model"):
        read_profile(tmp_path / "profile.json", "d" * 64)
