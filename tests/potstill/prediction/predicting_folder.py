"""`potstill predict --watch` without a registry, as a process that a test kills: `... SERVING FOLDER OUTPUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from potstill.config.predict_params import Predict
from potstill.prediction.arrival_metrics import FolderMetrics
from potstill.prediction.folder_prediction import FolderPrediction
from tests.potstill.prediction.models import TEXTS, model_of, silent


def main() -> None:
    serving, folder, output = sys.argv[1:]
    settings = Predict(threads=1, window_rows=50, settle_seconds=0.01)
    model = model_of(Path(serving), TEXTS)
    metrics = FolderMetrics()
    FolderPrediction(folder, Path(output), model, ("text",), None, settings, metrics, silent(model)).run()


if __name__ == "__main__":
    main()
