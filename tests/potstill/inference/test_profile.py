from __future__ import annotations

import json
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
    Profile,
    Seen,
    build_profile,
    confidences,
    read_profile,
    readings,
    vocabulary_of,
)
from potstill.inference.runtime import Found, ModelCard, Prediction, Reply, Tagging
from tests.conftest import generate_rows
from tests.potstill.serving.folders import card

WORDS = ["[UNK]", "[CLS]", "good", "bad", "film", "plot"]


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.add_special_tokens(["[UNK]", "[CLS]"])
    return tokenizer


def model_card(task: str = "classification", labels: Sequence[Any] = ("no", "yes"), **more: Any) -> ModelCard:
    return ModelCard.model_validate(card(task=task, labels=list(labels), **more))


def prediction(label: Any, *probabilities: float) -> Prediction:
    return Prediction(label, list(probabilities), [0.0], 3, False, tuple(range(16)))


def seen(*answers: Answer, ids: Sequence[int] = (1, 2, 4)) -> list[Seen]:
    return [Seen("good film", ids, answer) for answer in answers]


def profile_of(rows: Sequence[Seen], about: ModelCard, right: Any = None) -> Profile:
    return build_profile(rows, about, words(), "c" * 64, right)


def test_what_is_read_of_a_text() -> None:
    rows = [
        Seen("good film", [1, 2, 4], prediction("yes", 0.1, 0.9)),
        Seen(("a", "bcd"), [1, 0, 0, 3, 5], prediction("no", 0.6, 0.4)),
        Seen("", [1], prediction("no", 0.5, 0.5)),
    ]
    found = readings(rows, model_card(), vocabulary_of(words()))
    assert found["characters"].ravel().tolist() == [9, 4, 0]
    assert found["tokens"].ravel().tolist() == [3, 5, 1]
    assert found["unknown"].ravel().tolist() == [0, 0.5, 0]  # special tokens are none of the text's
    assert found["confidence"].ravel().tolist() == [0.9, 0.6, 0.5]
    assert found["label"].ravel().tolist() == [1, 0, 0]
    assert found["vector"].shape == (3, 16)
    assert not found["vector"][2].any()
    assert found["embedding"].tolist() == [list(range(16))] * 3


def test_the_sketch_of_words_is_of_the_tokens_and_not_of_their_order_or_number() -> None:
    about, vocabulary = model_card(), vocabulary_of(words())

    def sketch(*ids: int) -> Any:
        return readings(seen(prediction("no", 1, 0), ids=ids), about, vocabulary)["vector"][0]

    assert (sketch(1, 2, 4) == sketch(4, 2, 1)).all()
    assert (sketch(2) != sketch(3)).any()
    assert set(np.abs(sketch(2))) == {1.0}
    random = np.random.default_rng(1)
    many = np.array([sketch(*random.integers(2, 30_000, size=200)) for _ in range(300)])
    np.testing.assert_allclose(many.mean(axis=0), 0, atol=0.25)
    np.testing.assert_allclose(many.std(axis=0), 1, atol=0.15)


def test_the_vocabulary_of_a_tokenizer() -> None:
    assert vocabulary_of(words()).model_dump() == {"unknown": 0, "special": [1]}
    unigram = Tokenizer(models.Unigram([("a", -1.0), ("<u>", -2.0)], unk_id=1, byte_fallback=False))  # type: ignore[call-arg]
    assert vocabulary_of(unigram).unknown == 1
    assert vocabulary_of(Tokenizer(models.BPE())).unknown is None


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
        [Tagging([Found("PER", 0, 4, "good", 0.9), Found("LOC", 5, 9, "film", 0.5)], 2), Tagging([], 1)],
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
    about, answers, own = TASKS[task]
    rows = seen(*answers)
    profile = profile_of(rows, about)
    assert set(profile.features) == {"characters", "tokens", "unknown", "vector"} | own
    assert all(bins.counts[0] == bins.counts[-1] == 0 for bins in profile.features["tokens"].bins)
    write_json(tmp_path / "profile.json", profile.model_dump(mode="json"))
    again = read_profile(tmp_path / "profile.json", "c" * 64)
    assert (again, again.sum) == (profile, profile.sum)
    counts = Counts(profile)
    counts.add(rows, about)
    for name, feature in profile.features.items():
        assert [held.tolist() for held in counts.bins[name]] == [bins.counts for bins in feature.bins], name
        assert counts.shift(name)[0] == 0
    assert (counts.texts, counts.truncated) == (2, 0)


def test_confidence_is_of_the_whole_answer_in_every_task() -> None:
    found = {task: confidences(seen(*answers)).tolist() for task, (_, answers, _) in TASKS.items()}
    assert found["classification"] == [0.8, 0.9]
    assert found["multi_label"] == pytest.approx([0.7, 0.8])
    assert np.isnan(found["regression"]).all()
    assert found["token_classification"][0] == pytest.approx(0.7)
    assert np.isnan(found["token_classification"][1])
    assert found["question_answering"] == [0.7, 0.4]


def test_values_beyond_all_that_were_evaluated_have_bins_of_their_own() -> None:
    about = model_card()
    profile = profile_of([Seen("a" * length, [1], prediction("no", 1, 0)) for length in range(10, 60)], about)
    counts = Counts(profile)
    counts.add([Seen("a" * length, [1], prediction("no", 1, 0)) for length in (3, 9, 60, 900, 59)], about)
    held = counts.bins["characters"][0]
    assert (held[0], held[-1], held[-2], held.sum()) == (2, 2, 1, 5)
    # All the same in the test texts, and another one here.
    other = Counts(profile)
    other.add([Seen("a" * 20, [1, 1], prediction("no", 1, 0))] * 9, about)
    assert other.shift("tokens") == (pytest.approx(2 * 0.9999 * np.log(1e4), rel=1e-3), 1.0)
    assert other.shift("label") == (0, None)


def test_counts_join_as_if_they_were_counted_at_once() -> None:
    about = model_card()
    rows = [
        Seen(text, [1, 2 + len(text) % 4, 4], prediction("no", 1 - at / 200, at / 200))
        for at, (text, _) in enumerate(generate_rows(80))
    ]
    profile = profile_of(rows[:50], about)
    whole, parts = Counts(profile), Counts(profile)
    whole.add(rows, about)
    for part in (rows[:10], rows[10:]):
        counts = Counts(profile)
        counts.add(part, about)
        parts.join(json.loads(json.dumps(counts.to_json())))
    assert parts.to_json()["counts"] == whole.to_json()["counts"]
    assert parts.confidence.mean == pytest.approx(whole.confidence.mean)
    damaged = whole.to_json() | {"counts": {**whole.to_json()["counts"], "tokens": [[1]]}}
    with pytest.raises(ValueError, match="other bins"):
        parts.join(damaged)
    assert parts.texts == 80


def test_moments() -> None:
    values = np.random.default_rng(0).random(100)
    found = Moments().plus(values[:30]).joined(Moments().plus(values[30:]))
    assert (found.rows, found.mean) == (100, pytest.approx(values.mean()))
    assert found.variance == pytest.approx(values.var(ddof=1))
    assert Moments().plus(values[:1]).variance == 0


def test_how_right_the_model_is_stands_beside_how_sure_it_is() -> None:
    rows = seen(*(prediction("no", p, 1 - p) for p in (0.6, 0.8, 0.9, 0.7)))
    right = profile_of(rows, model_card(), np.array([1.0, 1.0, 0.0, 1.0])).right
    assert right is not None
    assert right.share.mean == 0.75
    assert right.gap.mean == pytest.approx(0)
    assert profile_of(rows, model_card()).right is None


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"format": 2}'])
def test_what_is_no_profile_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_bytes(content)
    with pytest.raises(ModelError, match="no profile of this version"):
        read_profile(tmp_path / "profile.json", "c" * 64)


def test_the_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    profile = profile_of(seen(prediction("no", 1, 0)), model_card())
    write_json(tmp_path / "profile.json", profile.model_dump(mode="json"))
    with pytest.raises(ModelError, match="of another model"):
        read_profile(tmp_path / "profile.json", "d" * 64)
