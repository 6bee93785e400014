"""`potstill serve`: serves the champion's Bento, by its fixed tag."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.commands.judge_answers import shadow_service, watch_service
from flows.engine.champions import find_champion
from potstill.compute.processes import listen
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import PackageError
from potstill.paths import PARAMS
from potstill.serving.launch import bento_path, serve_command

# Advice where the port is in use.
TAKEN = "end what uses it, or give --port"


def serve(workspace: Path, tag: str | None, host: str | None, port: int | None) -> None:
    """Replace this process by the server of a Bento; only an error returns from it.

    Args:
        workspace: the current folder.
        tag: `name:version`; the champion's when None.
        host: address to bind; `serve.host` when None.
        port: port to bind; `serve.port` when None.

    Raises:
        RegistryError: there is no champion.
        PackageError: the Bento is not in BentoML's store.
        SignatureError: params require a signature, and that of the Bento is missing or does not verify.
        ToolError: the port is taken.
    """
    params = load_params(workspace / PARAMS)
    tag = tag or champion_bento(workspace, params)[1]
    require_signature(stored_bento(tag), params, workspace)
    watch_service(workspace, params)
    shadow_service(workspace, params)
    address = (host or params.serve.host, params.serve.port if port is None else port)
    # BentoML prints a traceback of each of its processes on a taken port, and takes no name as a host.
    with listen(*address, advice=TAKEN) as listener:
        command = serve_command(tag, listener.getsockname()[0], address[1])
    sys.stdout.flush()
    os.execv(command[0], command)


def stored_bento(tag: str) -> Path:
    """Return the folder of a Bento in BentoML's store.

    Raises:
        PackageError: it is not in BentoML's store.
    """
    path = bento_path(tag)
    # A fixed Bento is named neither by a name alone nor by `latest`, which is a file there.
    if ":" not in tag or not path.is_dir():
        raise PackageError(
            f"Bento {tag} is not in the store ({path}); `potstill fetch` brings the champion's, `bentoml list` shows "
            "what the store has"
        )
    return path


def require_signature(bento: Path, params: Params, workspace: Path) -> None:
    """Verify the signature of a Bento where params require one.

    Raises:
        SignatureError: it is missing, or it does not verify.
    """
    if params.sign.require:
        from potstill.registry.signatures import verify_bento

        verify_bento(bento, params.sign, workspace)


def champion_bento(workspace: Path, params: Params) -> tuple[str, str]:
    """Return the champion's version and its Bento's tag, after fetching the Bento from the registry if it is not here.

    Raises:
        RegistryError: there is no champion, or its Bento is not with the registry.
        ChecksumError: the registry's bytes are not those that were registered.
    """
    from potstill.registry.promotion import Registry
    from tasks.package import fetch

    version = find_champion(workspace, params)
    tag = Registry(workspace, params.project.name).bento_of(version)
    if not bento_path(tag).exists():
        fetch(params, workspace, version.version)
    return version.version, tag
