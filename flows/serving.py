"""`potstill serve`: the champion's Bento, by its fixed tag."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.champions import find_champion, no_champion
from flows.watching import shadow_service, watch_service
from potstill.config import Params, load_params
from potstill.errors import PackageError
from potstill.serving.launch import bento_path, serve_command


def serve(workspace: Path, tag: str | None, host: str | None, port: int | None) -> None:
    """Become the server of a Bento; returns only by an error.

    Args:
        workspace: the current folder.
        tag: `name:version`; the champion's when None.
        host: address to bind; `serve.host` when None.
        port: port to bind; `serve.port` when None.

    Raises:
        RegistryError: there is no champion.
        PackageError: the Bento is not in BentoML's store.
    """
    params = load_params(workspace / "params.yaml")
    tag = tag or champion_tag(workspace, params)
    present(tag)
    watch_service(workspace, params)
    shadow_service(workspace, params)
    command = serve_command(tag, host or params.serve.host, params.serve.port if port is None else port)
    sys.stdout.flush()
    os.execv(command[0], command)


def present(tag: str) -> Path:
    """Where a Bento is.

    Raises:
        PackageError: it is not in BentoML's store.
    """
    path = bento_path(tag)
    if not path.exists():
        raise PackageError(f"Bento {tag} is not in the store ({path}); `potstill run` builds the champion's")
    return path


def champion_tag(workspace: Path, params: Params) -> str:
    """The tag of the champion's Bento; see `champion`."""
    return champion(workspace, params)[1]


def champion(workspace: Path, params: Params) -> tuple[str, str]:
    """The champion's version and the tag of its Bento.

    Raises:
        RegistryError: there is no champion, or it has no Bento.
    """
    found = find_champion(workspace, params)
    if found.bento is None:
        raise no_champion(params)
    return found.version, found.bento
