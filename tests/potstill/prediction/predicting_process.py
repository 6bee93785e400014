"""`potstill predict` without a registry, as a process that a test kills: `python -m ... SERVING INPUT OUTPUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from potstill.config.predict_params import Predict
from potstill.prediction.explained_rows import ExplanationPlan
from potstill.prediction.file_prediction import predict_files
from tests.potstill.prediction.models import TEXTS, model_of


def main() -> None:
    serving, source, output = sys.argv[1:]
    settings = Predict(threads=2, window_rows=50, max_rejected_share=0.1)
    plan = ExplanationPlan(count=5, alarm=0, words=31)
    predict_files([source], Path(output), model_of(Path(serving), TEXTS), ("text",), None, settings, plan)


if __name__ == "__main__":
    main()
