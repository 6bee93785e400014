from __future__ import annotations

import threading
import time

import pytest

from potstill.errors import ToolError
from potstill.serving import tracing as module
from potstill.serving.tracing import send_last, tracing

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    "variables", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}]
)
def test_without_an_endpoint_there_are_no_traces(variables: dict[str, str]) -> None:
    assert tracing(variables) == {}


@pytest.mark.parametrize(
    ("variables", "rate"),
    [
        (ENDPOINT, 1.0),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, 1.0),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER_ARG": "0.25", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, 0.25),
    ],
)
def test_an_endpoint_switches_traces_on(variables: dict[str, str], rate: float) -> None:
    setting = tracing(variables)
    assert (setting["exporter_type"], setting["otlp"], setting["sample_rate"]) == ("otlp", {"protocol": "http"}, rate)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "'http/json'.* has to be http/protobuf or grpc"),
        ({"OTEL_TRACES_SAMPLER_ARG": "half"}, "'half'.* from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER_ARG": "nan"}, "'nan'.* from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "'2'.* from 0 to 1"),
        # The exporter for gRPC is never installed here.
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "opentelemetry-exporter-otlp-proto-grpc is not installed"),
    ],
)
def test_an_invalid_variable_is_one_sentence(more: dict[str, str], message: str) -> None:
    with pytest.raises(ToolError, match=message):
        tracing(ENDPOINT | more)


def test_an_unreachable_collector_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LAST_SECONDS", 0.05)
    unreachable = threading.Event()

    class Provider:
        def shutdown(self) -> None:
            unreachable.wait(30)

    begin = time.monotonic()
    send_last(Provider())
    assert time.monotonic() - begin < 5
    unreachable.set()
