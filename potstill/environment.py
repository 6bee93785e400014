"""Process-wide settings that have to be in place before the tools are imported. The one place that sets them."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# Each library's own opt-out; MLflow compares DO_NOT_TRACK with the word "true".
NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "BENTOML_DO_NOT_TRACK": "True",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
}


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch every telemetry off and keep the hub's client offline, in this process and its children.

    What params name of the hub is fetched by a process of its own, which is online (`potstill.data.fetching.hub`).
    Idempotent. What a user has set already for the quieting variables stays; the opt-outs are always set.
    """
    environment.update(NO_TELEMETRY)
    for name, value in QUIET.items():
        environment.setdefault(name, value)
    environment["HF_HUB_OFFLINE"] = "1"
