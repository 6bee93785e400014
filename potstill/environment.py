"""Environment variables that have to be set before the tools are imported; nothing else sets them."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# The telemetry opt-out of each library. MLflow compares DO_NOT_TRACK with the word "true".
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

# How Prefect's client asks again: for four minutes in all and not for one, and also where the server answers 500, as it
# does while its database restarts.
PREFECT_CLIENT = {"PREFECT_CLIENT_MAX_RETRIES": "7", "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500"}

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    **PREFECT_CLIENT,
}


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch off all telemetry and keep the hub client offline, in this process and its children. Idempotent.

    A separate process that is online fetches what params name on the hub (`potstill.data.fetching.hub`). A value that
    the user has set for one of the `QUIET` variables stays; the opt-outs are always set.
    """
    environment.update(NO_TELEMETRY)
    for name, value in QUIET.items():
        environment.setdefault(name, value)
    environment["HF_HUB_OFFLINE"] = "1"
