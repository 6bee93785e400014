"""`potstill predict --from` and `--watch`: answers to what arrives in a stream or a folder, until a signal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flows.commands.predict_files import chosen_model, show_answers, text_columns
from flows.engine.alert_webhook import alert_teller
from potstill.compute.processes import stop_requests
from potstill.config.params_file import load_params
from potstill.errors import OutputError
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
    from potstill.prediction.alerting import Alerting
    from potstill.prediction.arrival_metrics import StreamMetrics, metrics_server
    from potstill.prediction.redis_streams import RecordStreams, parse_address
    from potstill.prediction.stream_prediction import StreamPrediction

    params = load_params(workspace / PARAMS)
    streams = RecordStreams(parse_address(source), parse_address(target), params.stream)
    metrics = StreamMetrics()
    with (
        stop_requests() as stop,
        streams.opened(),
        metrics_server(metrics.registry, params.stream, "stream"),
        alert_teller(workspace, params, str(streams.target)) as tell,
    ):
        model = chosen_model(workspace, params, version)
        fields = None if columns is None else tuple(columns)
        texts = text_columns(params, model, text)
        alerting = Alerting(params.alerts, model.card, model.profile, streams.counts(), tell)
        prediction = StreamPrediction(streams, model, texts, fields, params.predict, metrics, alerting)
        say(f"stream: version {model.number} answers {streams.source} to {streams.target}")
        prediction.run(stop)
    show_answers(model, prediction.tally.to_json(), f"records, listed in the stream {streams.rejected}", params)


def predict_folder(
    workspace: Path,
    folder: str,
    output: str,
    text: Sequence[str] | None,
    version: str,
    columns: Sequence[str] | None,
) -> None:
    """Answer the files of a folder as they arrive, until SIGTERM or Ctrl-C.

    Args:
        workspace: the current folder.
        folder: path or URL of the folder.
        output: the folder of the answers.
        text: the column of the text, or the two of a pair; `prepare.text` when None.
        version: number or alias of a registered version.
        columns: the columns to pass on; all when None.

    Raises:
        RegistryError: there is no such version.
        FetchError: the folder is not there.
        OutputError: the answers would be in the folder itself, or at a URL.
        ToolError: the address of the metrics cannot be bound.
    """
    from potstill.prediction.alerting import Alerting, FileCounts
    from potstill.prediction.arrival_metrics import FolderMetrics, metrics_server
    from potstill.prediction.folder_prediction import FolderPrediction

    if "://" in output:
        raise OutputError(f"{output} is a URL; name a folder of this machine")
    params = load_params(workspace / PARAMS)
    model = chosen_model(workspace, params, version)
    chosen = None if columns is None else tuple(columns)
    texts = text_columns(params, model, text)
    metrics = FolderMetrics()
    with (
        metrics_server(metrics.registry, params.predict, "predict"),
        alert_teller(workspace, params, output) as tell,
        suppress(KeyboardInterrupt),
    ):
        counts = FileCounts(Path(output, ".alerts.json"))
        alerting = Alerting(params.alerts, model.card, model.profile, counts, tell)
        prediction = FolderPrediction(folder, Path(output), model, texts, chosen, params.predict, metrics, alerting)
        say(f"watch: version {model.number} answers the files of {folder} in {output}")
        prediction.run()
    say("watch: ended; the same command goes on")
