"""The champion of a workspace, as its registry knows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.config.params import Params
from potstill.errors import RegistryError

if TYPE_CHECKING:
    from potstill.registry.promotion import Registry
    from potstill.registry.versions import Version


def find_champion(workspace: Path, params: Params) -> Version:
    """Return the champion, without creating a store where there is none.

    Raises:
        RegistryError: there is no champion.
    """
    from potstill.registry import tracking
    from potstill.registry.promotion import Registry

    champion = Registry(workspace, params.project.name).champion() if tracking.has_store(workspace) else None
    if champion is None:
        raise no_champion(params)
    return champion


def open_registry(workspace: Path, params: Params, *, read_only: bool = False) -> Registry:
    """Open the registry, without creating a store where there is none.

    Args:
        workspace: the workspace.
        params: name the project.
        read_only: whether the registry is only read, for which MLflow's package need not be loaded.

    Raises:
        RegistryError: there is no store yet, and so no champion.
    """
    from potstill.registry import tracking
    from potstill.registry.promotion import Registry
    from potstill.registry.store_reader import reader

    if not tracking.has_store(workspace):
        raise no_champion(params)
    return Registry(workspace, params.project.name, reader(workspace) if read_only else None)


def no_champion(params: Params) -> RegistryError:
    """Return the error for a project without a champion."""
    return RegistryError(f"{params.project.name} has no champion yet; `potstill run` makes one")
