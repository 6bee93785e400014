"""Location and start command of a built Bento. Imports no BentoML, because starting a server does not need it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from potstill import environment
from potstill.artifacts import is_writable
from potstill.compute.processes import free_port
from potstill.errors import ToolError
from potstill.serving.keys import FILE_VARIABLE, VARIABLE
from potstill.serving.tracing import ENDPOINTS

# Environment variable: where the service writes its windows. It overrides `watch.folder` of the Bento.
WATCH_FOLDER = "POTSTILL_WATCH_FOLDER"
# Environment variable: the serving folder of a challenger for shadow traffic.
SHADOW_FOLDER = "POTSTILL_SHADOW_FOLDER"


def bento_path(tag: str) -> Path:
    """Return the path of a Bento in BentoML's store, whether it exists or not.

    Args:
        tag: `name:version`.
    """
    return bento_home().joinpath("bentos", *tag.split(":"))


def bento_home() -> Path:
    """Return the absolute path of BentoML's store: `bentoml build` runs in another folder.

    Raises:
        ToolError: this user has no home folder.
    """
    try:
        return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml").absolute()
    except RuntimeError as error:
        raise ToolError("this user has no home folder; set HOME, or BENTOML_HOME") from error


def check_bento_home() -> None:
    """Check that BentoML's store can be written.

    Raises:
        ToolError: it cannot, or this user has no home folder.
    """
    if not is_writable(bento_home()):
        raise ToolError(
            f"BentoML's store {bento_home()} cannot be written, which a candidate that passes needs; set BENTOML_HOME "
            "to a folder that can"
        )


def serve_command(tag: str, host: str, port: int) -> list[str]:
    """Build the command that serves a Bento by its exact tag.

    Args:
        tag: `name:version`; never `latest`, so that the served Bento is the promoted one.
        host: address to bind; BentoML's default would be every interface.
        port: TCP port; for 0 a free port is chosen here, so that BentoML can print it.
    """
    return [sys.executable, "-m", "bentoml", "serve", tag, "--host", host, "--port", str(port or free_port())]


def bento_environment() -> dict[str, str]:
    """Return the environment for building or testing a Bento: this process's, without variables for the service.

    PYTHONPATH is removed so that the Bento's own code runs. Building a Bento imports it, which needs no keys, and
    BentoML records its configuration, which must not contain endpoints of traces.
    """
    variables = {**os.environ, "BENTOML_HOME": str(bento_home())}
    environment.prepare(variables)
    for name in ("PYTHONPATH", VARIABLE, FILE_VARIABLE, *ENDPOINTS):
        variables.pop(name, None)
    return variables
