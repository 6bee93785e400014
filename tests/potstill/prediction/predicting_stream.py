"""`potstill predict --from` without a registry, as a process that a test kills: `python -m ... SERVING SERVER/DB`."""

from __future__ import annotations

import sys
from pathlib import Path

from potstill.compute.processes import stop_requests
from potstill.config.predict_params import Predict
from potstill.config.stream_params import Stream
from potstill.prediction.arrival_metrics import StreamMetrics
from potstill.prediction.redis_streams import RecordStreams, parse_address
from potstill.prediction.stream_prediction import StreamPrediction
from tests.potstill.prediction.models import TEXTS, model_of, silent


def main() -> None:
    serving, server = sys.argv[1:]
    settings = Stream(batch=20, claim_seconds=0.2)
    streams = RecordStreams(parse_address(f"{server}/reviews"), parse_address(f"{server}/answers"), settings)
    model = model_of(Path(serving), TEXTS)
    with stop_requests() as stop, streams.opened():
        StreamPrediction(streams, model, ("text",), None, Predict(threads=1), StreamMetrics(), silent(model)).run(stop)


if __name__ == "__main__":
    main()
