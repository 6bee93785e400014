"""The confidence of a whole answer, and the threshold below which a model abstains."""

from __future__ import annotations

import math
from pathlib import Path

from potstill.artifacts import read_json
from potstill.errors import ModelError
from potstill.inference.runtime import Prediction
from potstill.kinds.definitions.question_answering import Reply
from potstill.kinds.definitions.token_classification import Tagging


def answer_confidence(answer: Prediction | Tagging | Reply) -> float:
    """Compute the calibrated probability of a whole answer, as `Kind.confidence` does for the threshold.

    Args:
        answer: a `Tagging` or a `Prediction` of classes or labels.

    Raises:
        ValueError: no probability tells whether such an answer is right.
    """
    if isinstance(answer, Tagging):
        return answer.confidence
    if isinstance(answer, Reply) or not answer.probabilities:
        raise ValueError("answers to questions and numbers have no confidence to abstain by")
    if isinstance(answer.label, list):
        return math.prod(max(p, 1 - p) for p in answer.probabilities)
    return max(answer.probabilities)


def read_threshold(metrics: Path, candidate: str) -> float:
    """Read the confidence from which on a model answers, as the evaluation found it.

    Args:
        metrics: reports/metrics.json.
        candidate: sha256 of the manifest of the model's serving folder.

    Raises:
        ModelError: the file is missing or about another model, or has no threshold.
    """
    try:
        numbers = read_json(metrics)
        evaluated = numbers["serving_sha256"]
        threshold = (numbers.get("abstention") or {}).get("threshold")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{metrics} cannot be read, but serve.abstain needs its threshold; evaluate again") from error
    if evaluated != candidate:
        raise ModelError(f"{metrics} is about another model, but serve.abstain needs its threshold; evaluate again")
    if threshold is None:
        raise ModelError(
            f"serve.abstain needs a threshold, but {metrics} has none that is proven; label more rows of dev, lower "
            "evaluate.abstention.right, or set serve.abstain to false"
        )
    return float(threshold["confidence"])
