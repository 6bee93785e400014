"""Scores on labelled rows of another domain (`split: shift` of `prepare.tables`), which never join those of test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from potstill.config.evaluation_params import Evaluate
from potstill.evaluation.summary import Answers, Gold, compare_pair, score

# Numbers of a model that do not depend on the rows.
_OF_THE_MODEL = ("temperature", "parameters", "megabytes", "members")


def judge_shift(
    gold: Gold, answers: Mapping[str, Answers], candidate: str, settings: Evaluate, *, seed: int
) -> dict[str, Any]:
    """Compute `shift` of metrics.json: every model's scores, and the candidate against each of the others.

    Args:
        gold: [rows, ...] gold labels in the task's form.
        answers: name of a model -> its answers to these rows, the candidate's among them.
        candidate: name of the model that ships.
        settings: level of the intervals, resamples of the bootstrap, bins of the calibration error.
        seed: seed of the bootstrap.
    """
    scores = {name: score(gold, model, settings) for name, model in answers.items()}
    return {
        "rows": len(gold),
        "models": {
            name: {key: value for key, value in numbers.items() if key not in _OF_THE_MODEL}
            for name, numbers in scores.items()
        },
        "comparison": {
            name: compare_pair(gold, answers[candidate], model, settings, seed).to_json()
            for name, model in answers.items()
            if name != candidate
        },
    }


def flat_shift(shift: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield name and value of each number for MLflow."""
    yield "shift_rows", shift["rows"]
    for name, numbers in shift["models"].items():
        for key, value in numbers.items():
            yield f"shift_{name}_{key}", value
    for name, comparison in shift["comparison"].items():
        for part in ("difference", "low", "high"):
            yield f"shift_over_{name}_{part}", comparison[part]
