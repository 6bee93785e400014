from __future__ import annotations

import threading
import time

import pytest

from potstill.errors import ToolError
from potstill.serving import tracing as module
from potstill.serving.tracing import send_last, tracing

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    "variables", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, {**HERE, "OTEL_TRACES_EXPORTER": "none"}]
)
def test_without_an_endpoint_there_are_no_traces(variables: dict[str, str]) -> None:
    assert tracing(variables) == {}


@pytest.mark.parametrize(
    ("variables", "rate"),
    [
        (HERE, 1.0),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, 1.0),
        ({**HERE, "OTEL_TRACES_SAMPLER_ARG": "0.25", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, 0.25),
    ],
)
def test_an_endpoint_is_all_that_is_needed(variables: dict[str, str], rate: float) -> None:
    found = tracing(variables)
    assert (found["exporter_type"], found["otlp"], found["sample_rate"]) == ("otlp", {"protocol": "http"}, rate)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "'http/json'.* has to be http/protobuf or grpc"),
        ({"OTEL_TRACES_SAMPLER_ARG": "half"}, "'half'.* from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, "'nan'.* from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "'2'.* from 0 to 1"),
        # gRPC is in no environment of ours.
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "opentelemetry-exporter-otlp-proto-grpc is not installed"),
    ],
)
def test_what_cannot_be_traced_is_one_sentence(more: dict[str, str], said: str) -> None:
    with pytest.raises(ToolError, match=said):
        tracing(HERE | more)


def test_a_collector_that_is_away_does_not_keep_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LAST_SECONDS", 0.05)
    away = threading.Event()

    class Provider:
        def shutdown(self) -> None:
            away.wait(30)

    begin = time.monotonic()
    send_last(Provider())
    assert time.monotonic() - begin < 5
    away.set()
