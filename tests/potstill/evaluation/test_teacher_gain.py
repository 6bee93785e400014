from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.config.evaluation_params import Evaluate
from potstill.data.tokens.batches import SPAN
from potstill.errors import ChecksumError
from potstill.evaluation.summary import Answers
from potstill.evaluation.teacher_gain import MODELS, Seed, flatten, prove, read_seeds, write_answers
from potstill.scores.statistics import paired_bootstrap

SETTINGS = Evaluate(bootstrap=500)
ROWS = 400
LABELS = np.arange(ROWS) % 2


def _right_on(share: float, seed: int, *, temperature: float = 1.0) -> Answers:
    """A model that is right on so many rows, drawn by the seed."""
    right = np.random.default_rng(seed).random(ROWS) < share
    classes = np.where(right, LABELS, 1 - LABELS)
    logits = np.zeros((ROWS, 2), dtype=np.float32)
    logits[np.arange(ROWS), classes] = 3
    return Answers(logits, temperature, parameters=10, file_bytes=1000)


def _seeds(student: float, pretrained: float, initialised: float, count: int) -> list[Seed]:
    shares = {"student": student, "pretrained": pretrained, "initialised": initialised}
    return [
        Seed(17 + k, {name: _right_on(share, 10 * k + place) for place, (name, share) in enumerate(shares.items())})
        for k in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_known_cases(count: int) -> None:
    seeds = _seeds(0.9, 0.6, 0.99, count)
    proof = prove(LABELS, _right_on(0.9, 99), seeds, SETTINGS, bootstrap_seed=0)
    assert proof["seeds"] == list(range(17, 17 + count))
    assert {name: one["outcome"] for name, one in proof["verdicts"].items()} == {
        "pretrained": "BEATS", "initialised": "LOSES",
    }  # fmt: skip
    same = [Seed(one.seed, {**one.answers, "pretrained": one.answers["student"]}) for one in seeds]
    verdict = prove(LABELS, _right_on(0.9, 99), same, SETTINGS, bootstrap_seed=0)["verdicts"]["pretrained"]
    assert (verdict["outcome"], verdict["low"], verdict["high"]) == ("NO DIFFERENCE", 0, 0)


def test_the_numbers_are_those_of_the_models_seed_by_seed() -> None:
    teacher, seeds = _right_on(0.95, 99), _seeds(0.9, 0.8, 0.85, 2)
    proof = prove(LABELS, teacher, seeds, SETTINGS, bootstrap_seed=0)
    for name, numbers in proof["models"].items():
        for place, one in enumerate(seeds):
            predictions = one.answers[name].predictions
            assert numbers["accuracy"][place] == (predictions == LABELS).mean()
            assert numbers["agreement"][place] == (predictions == teacher.predictions).mean()
            assert numbers["kl"][place] > 0
            assert numbers["ece"][place] == one.answers[name].reliability(LABELS, SETTINGS.calibration_bins).ece
    verdict, models = proof["verdicts"]["pretrained"], proof["models"]
    differences = np.subtract(models["student"]["accuracy"], models["pretrained"]["accuracy"])
    assert verdict["differences"] == pytest.approx(list(differences))
    assert verdict["difference"] == pytest.approx(differences.mean())
    assert verdict["low"] < verdict["difference"] < verdict["high"]
    flat = flatten(proof)
    assert flat["proof_seeds"] == 2
    assert flat["proof_pretrained_verdict"] == 1
    assert flat["proof_student_accuracy"] == pytest.approx(np.mean(models["student"]["accuracy"]))


def test_one_seed_is_the_comparison_of_rows() -> None:
    (one,) = _seeds(0.9, 0.85, 0.8, 1)
    proof = prove(LABELS, _right_on(0.9, 99), [one], SETTINGS, bootstrap_seed=3)["verdicts"]["pretrained"]
    rows = paired_bootstrap(
        LABELS, one.answers["student"].predictions, one.answers["pretrained"].predictions,
        replicates=500, confidence=0.95, seed=3,
    )  # fmt: skip
    assert proof == rows.to_json() | {"differences": [rows.difference]}


def test_answers_survive_their_file_and_seeds_come_in_order(tmp_path: Path) -> None:
    seeds = _seeds(0.9, 0.8, 0.7, 3)
    for one, seed in zip(seeds, (9, 10, 100), strict=True):
        (tmp_path / f"seed-{seed}").mkdir()
        write_answers(tmp_path / f"seed-{seed}", LABELS, one.answers)
    proof = read_seeds(tmp_path, LABELS)
    assert [one.seed for one in proof] == [9, 10, 100]
    for there, here in zip(proof, seeds, strict=True):
        for name, answers in here.answers.items():
            np.testing.assert_array_equal(there.answers[name].logits, answers.logits)
            assert there.answers[name].temperature == answers.temperature
    with pytest.raises(ChecksumError, match="seed-9 is about other test rows"):
        read_seeds(tmp_path, 1 - LABELS)


def test_answers_about_places_survive_their_file(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    tags = np.empty(2, dtype=object)
    tags[0], tags[1] = np.array([-100, 1, 0, -100]), np.array([-100, 2, -100])
    spans = np.array([(0, 300), (2, 2)], dtype=SPAN)
    windows = np.empty(2, dtype=object)
    windows[0], windows[1] = (random.normal(size=(n, 2)).astype(np.float32) for n in (301, 4))
    for task, labels, logits in (
        ("token_classification", tags, random.normal(size=(3, 3)).astype(np.float32)),
        ("question_answering", spans, windows),
    ):
        (tmp_path / task / "seed-4").mkdir(parents=True)
        said = Answers(logits, 1.5, 7, 8, task)  # type: ignore[arg-type]
        write_answers(tmp_path / task / "seed-4", labels, dict.fromkeys(MODELS, said))
        (proof,) = read_seeds(tmp_path / task, labels)
        assert proof.answers["student"].task == task
        for one, other in zip(proof.answers["student"].logits, logits, strict=True):
            np.testing.assert_array_equal(one, other)
        with pytest.raises(ChecksumError, match="seed-4 is about other test rows"):
            read_seeds(tmp_path / task, labels[::-1].copy())
