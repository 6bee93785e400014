"""The servers that params name, as the variables by which MLflow, Prefect and their children look for them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from potstill.config.yaml_file import read_params
from potstill.errors import ParamsError
from potstill.paths import PARAMS

_VARIABLES = {"mlflow_url": "MLFLOW_TRACKING_URI", "prefect_url": "PREFECT_API_URL"}
# What was set from params, which other params replace.
_set: dict[str, str] = {}


def use_servers(workspace: Path) -> None:
    """Set the variables of the servers that params.yaml names; one that the user has set stays.

    To be called before MLflow and Prefect are imported. Params that cannot be read are left to the command, which says
    what is wrong with them.
    """
    with suppress(ParamsError):
        servers: Any = read_params(workspace / PARAMS).get("servers")
        if not isinstance(servers, dict):
            return
        for key, variable in _VARIABLES.items():
            if variable in os.environ and os.environ[variable] != _set.get(variable):
                continue
            os.environ.pop(variable, None)
            if isinstance(servers.get(key), str):
                os.environ[variable] = _set[variable] = servers[key]
