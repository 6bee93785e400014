"""OpenTelemetry traces, which BentoML sends as OpenTelemetry's environment variables configure them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from potstill.errors import ToolError

# The variables of the endpoint; if one is set, requests are traced.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER, _SAMPLED = "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER_ARG"
_DEFAULT_PROTOCOL = "http/protobuf"
# OpenTelemetry's name of a protocol -> BentoML's name and the package of its exporter.
_EXPORTERS = {
    _DEFAULT_PROTOCOL: ("http", "opentelemetry-exporter-otlp-proto-http"),
    "grpc": ("grpc", "opentelemetry-exporter-otlp-proto-grpc"),
}
# Paths that machines poll.
_EXCLUDED = ["/livez", "/readyz", "/healthz", "/metrics"]
# Seconds that a service waits for the collector when it ends.
_LAST_SECONDS = 2.0


def tracing(variables: Mapping[str, str]) -> dict[str, Any]:
    """Build BentoML's `tracing` setting; empty without an endpoint.

    The exporter reads addresses, headers and time limits from the variables itself.

    Args:
        variables: the environment.

    Raises:
        ToolError: a variable has an invalid value, or the exporter is not installed.
    """
    endpoint = _first(variables, ENDPOINTS)
    if not endpoint or variables.get(_EXPORTER, "otlp").strip() == "none":
        return {}
    protocol = _first(variables, _PROTOCOLS) or _DEFAULT_PROTOCOL
    if protocol not in _EXPORTERS:
        raise ToolError(
            f"the protocol of traces is {protocol!r} ({_PROTOCOLS[1]}); it has to be {' or '.join(_EXPORTERS)}"
        )
    name, package = _EXPORTERS[protocol]
    if not _installed(name):
        raise ToolError(f"traces go to {endpoint}, but {package} is not installed; install it, or unset {ENDPOINTS[1]}")
    otlp = {"exporter_type": "otlp", "otlp": {"protocol": name}}
    return otlp | {"sample_rate": _rate(variables.get(_SAMPLED, "")), "excluded_urls": _EXCLUDED}


def send_last(provider: Any) -> None:
    """Send the waiting spans when a service ends; a signal ends it, so Python's exit handlers do not run.

    Args:
        provider: OpenTelemetry's `TracerProvider`.
    """
    # The SDK would wait up to 30 s for an unreachable collector.
    sending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
    sending.start()
    sending.join(_LAST_SECONDS)


def _first(variables: Mapping[str, str], names: tuple[str, ...]) -> str:
    values = (variables.get(name, "").strip() for name in names)
    return next(filter(None, values), "")


def _installed(name: str) -> bool:
    try:
        return find_spec(f"opentelemetry.exporter.otlp.proto.{name}") is not None
    except ModuleNotFoundError:
        return False


def _rate(value: str) -> float:
    """Parse the share of traces that is kept if the caller has not decided; the default is all."""
    try:
        rate = float(value or 1.0)
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1.0:
        raise ToolError(f"{_SAMPLED} is {value!r}; it is the share of traces that is kept, from 0 to 1")
    return rate
