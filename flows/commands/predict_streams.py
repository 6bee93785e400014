"""`potstill predict --from`: answers for every record of a stream, until the command is stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.commands.predict_files import chosen_model, show_answers, text_columns
from potstill.compute.processes import stop_requests
from potstill.config.params_file import load_params
from potstill.paths import PARAMS
from potstill.progress import say


def predict_stream(
    workspace: Path,
    source: str,
    target: str,
    text: Sequence[str] | None,
    version: str,
    columns: Sequence[str] | None,
) -> None:
    """Answer the records of a stream until SIGTERM or Ctrl-C, and print what came out.

    Args:
        workspace: the current folder.
        source: URL of the stream to read.
        target: URL of the stream of the answers.
        text: the field of the text, or the two of a pair; `prepare.text` when None.
        version: number or alias of a registered version.
        columns: the fields to pass on; all when None.

    Raises:
        RegistryError: there is no such version.
        StreamError: a stream is away or not there, or is none.
    """
    from potstill.prediction.redis_streams import RecordStreams, parse_address
    from potstill.prediction.stream_metrics import StreamMetrics, metrics_server
    from potstill.prediction.stream_prediction import StreamPrediction

    params = load_params(workspace / PARAMS)
    streams = RecordStreams(parse_address(source), parse_address(target), params.stream)
    metrics = StreamMetrics()
    with stop_requests() as stop, streams.opened(), metrics_server(metrics.registry, params.stream):
        model = chosen_model(workspace, params, version)
        fields = None if columns is None else tuple(columns)
        texts = text_columns(params, model, text)
        prediction = StreamPrediction(streams, model, texts, fields, params.predict, metrics)
        say(f"stream: version {model.number} answers {streams.source} to {streams.target}")
        prediction.run(stop)
    show_answers(model, prediction.tally.to_json(), f"records, listed in the stream {streams.rejected}", params)
