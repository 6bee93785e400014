"""OpenTelemetry traces: BentoML makes them, of what OpenTelemetry's own variables say."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from potstill.errors import ToolError

# Where traces go: with one of them named every request is traced.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER, _SAMPLED = "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER_ARG"
_DEFAULT_PROTOCOL = "http/protobuf"
# OpenTelemetry's name of a protocol -> BentoML's; the package that speaks it.
_SPOKEN = {
    _DEFAULT_PROTOCOL: ("http", "opentelemetry-exporter-otlp-proto-http"),
    "grpc": ("grpc", "opentelemetry-exporter-otlp-proto-grpc"),
}
# Asked by machines, without end.
_EXCLUDED = ["/livez", "/readyz", "/healthz", "/metrics"]
# That a service which ends waits for the collector.
_LAST_SECONDS = 2.0


def tracing(variables: Mapping[str, str]) -> dict[str, Any]:
    """BentoML's `tracing` setting; empty where no endpoint is named. Addresses, headers and limits of time the exporter
    reads from the variables itself.

    Args:
        variables: the environment.

    Raises:
        ToolError: a variable has a value that cannot be used, or the exporter is not installed.
    """
    endpoint = _first(variables, ENDPOINTS)
    if not endpoint or variables.get(_EXPORTER, "otlp").strip() == "none":
        return {}
    protocol = _first(variables, _PROTOCOLS) or _DEFAULT_PROTOCOL
    if protocol not in _SPOKEN:
        raise ToolError(
            f"the protocol of traces is {protocol!r} ({_PROTOCOLS[1]}); it has to be {' or '.join(_SPOKEN)}"
        )
    name, package = _SPOKEN[protocol]
    if not _installed(name):
        raise ToolError(f"traces go to {endpoint}, but {package} is not installed; install it, or unset {ENDPOINTS[1]}")
    otlp = {"exporter_type": "otlp", "otlp": {"protocol": name}}
    return otlp | {"sample_rate": _rate(variables.get(_SAMPLED, "")), "excluded_urls": _EXCLUDED}


def send_last(provider: Any) -> None:
    """Send the spans that wait, when a service ends: by a signal, so that Python's own exit is not run.

    Args:
        provider: OpenTelemetry's `TracerProvider`.
    """
    # The SDK's own limit is 30 s, for which a collector that is away must not keep a service.
    sending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
    sending.start()
    sending.join(_LAST_SECONDS)


def _first(variables: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((found for name in names if (found := variables.get(name, "").strip())), "")


def _installed(name: str) -> bool:
    try:
        return find_spec(f"opentelemetry.exporter.otlp.proto.{name}") is not None
    except ModuleNotFoundError:
        return False


def _rate(given: str) -> float:
    """The share of traces that is kept, where the caller has not decided; all, if nothing is said."""
    try:
        rate = float(given or 1.0)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        raise ToolError(f"{_SAMPLED} is {given!r}; it is the share of traces that is kept, from 0 to 1")
    return rate
