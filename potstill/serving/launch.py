"""Finding and starting a built Bento. Imports no BentoML: what starts a server need not load one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from potstill import environment
from potstill.compute.processes import free_port
from potstill.serving.keys import FILE_VARIABLE, VARIABLE
from potstill.serving.tracing import ENDPOINTS

# Where a service writes its windows, above its Bento's `watch.folder`, which cannot know where it will run.
WATCH_FOLDER = "POTSTILL_WATCH_FOLDER"
# The serving folder of a challenger that rides along.
SHADOW_FOLDER = "POTSTILL_SHADOW_FOLDER"


def bento_path(tag: str) -> Path:
    """Where BentoML's store keeps a Bento, there or not.

    Args:
        tag: `name:version`.
    """
    home = os.environ.get("BENTOML_HOME") or Path.home() / "bentoml"
    return Path(home, "bentos", *tag.split(":"))


def serve_command(tag: str, host: str, port: int) -> list[str]:
    """The command that serves a Bento by its fixed tag.

    Args:
        tag: `name:version`; never `latest`, so that what answers is what was promoted.
        host: address to bind; BentoML's own default would be every interface.
        port: TCP port; 0 for any free one, which is chosen here, so that BentoML can say which.
    """
    return [sys.executable, "-m", "bentoml", "serve", tag, "--host", host, "--port", str(port or free_port())]


def own_variables() -> dict[str, str]:
    """The environment in which a Bento is built or tried: this process's, without what is set for the service itself.

    Its own code is what runs, whatever a shell has put before it. Building it imports it, which takes no keys, and
    BentoML writes down how it was configured.
    """
    variables = dict(os.environ)
    environment.prepare(variables)
    for name in ("PYTHONPATH", VARIABLE, FILE_VARIABLE, *ENDPOINTS):
        variables.pop(name, None)
    return variables
