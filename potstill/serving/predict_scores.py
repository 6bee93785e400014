"""The scores of `/predict`, as Text Embeddings Inference and Hugging Face's inference clients define them."""

from __future__ import annotations

from potstill.inference.runtime import Prediction
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.scores.probabilities import sigmoid, softmax
from potstill.serving.schemas import Predict


def ranked_scores(prediction: Prediction, request: Predict, task: TaskKind = "single_label") -> list[tuple[int, float]]:
    """Compute the requested number of (label index, score) for a text, best first.

    Without a requested function the scores are the calibrated probabilities, or the number of a regression model.
    """
    default = KINDS[task].score_function
    parameters = request.parameters
    requested = parameters.function_to_apply if parameters else None
    function = "none" if request.raw_scores else requested or default
    if function == "none":
        scores = prediction.logits
    elif function == default:
        scores = prediction.probabilities
    elif function == "sigmoid":
        scores = sigmoid(prediction.logits).tolist()
    else:
        scores = softmax(prediction.logits).tolist()
    best = sorted(enumerate(scores), key=lambda item: item[1], reverse=True)
    return best[: parameters.top_k if parameters else None]
