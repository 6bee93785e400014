"""The scores of `/predict`, in the dialects of Text Embeddings Inference and of Hugging Face's inference clients."""

from __future__ import annotations

from potstill.config.base import TaskKind
from potstill.inference.probabilities import sigmoid, softmax
from potstill.inference.runtime import Prediction
from potstill.serving.schemas import Predict

# What makes scores of the logits of a task.
_OWN: dict[TaskKind, str] = {"single_label": "softmax", "multi_label": "sigmoid", "regression": "none"}


def scored(prediction: Prediction, request: Predict, task: TaskKind = "single_label") -> list[tuple[int, float]]:
    """(label index, score) of one text, best first: as many as asked for.

    The scores are those of the model's task unless a function is asked for: calibrated probabilities, or the number.
    """
    asked = request.parameters
    function = "none" if request.raw_scores else (asked and asked.function_to_apply) or _OWN[task]
    if function == "none":
        scores = prediction.logits
    elif function == _OWN[task]:
        scores = prediction.probabilities
    elif function == "sigmoid":
        scores = sigmoid(prediction.logits).tolist()
    else:
        scores = softmax(prediction.logits).tolist()
    best = sorted(enumerate(scores), key=lambda item: item[1], reverse=True)
    return best[: asked.top_k if asked else None]
