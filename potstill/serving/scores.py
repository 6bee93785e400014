"""The scores of `/predict`, in the dialects of Text Embeddings Inference and of Hugging Face's inference clients."""

from __future__ import annotations

import math

from potstill.serving.runtime import Prediction
from potstill.serving.schemas import PredictRequest


def scored(prediction: Prediction, request: PredictRequest) -> list[tuple[int, float]]:
    """(class index, score) of one text, best first: as many as asked for."""
    asked = request.parameters
    function = "none" if request.raw_scores else asked.function_to_apply if asked else "softmax"
    scores = {
        "softmax": prediction.probabilities,
        "sigmoid": [_sigmoid(logit) for logit in prediction.logits],
        "none": prediction.logits,
    }[function]
    best = sorted(enumerate(scores), key=lambda item: item[1], reverse=True)
    return best[: asked.top_k if asked else None]


def _sigmoid(value: float) -> float:
    # By sign, so that no power overflows.
    power = math.exp(-abs(value))
    return 1 / (1 + power) if value >= 0 else power / (1 + power)
