"""The champion of a workspace, as its registry knows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.config.params import Params
from potstill.errors import RegistryError

if TYPE_CHECKING:
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


def no_champion(params: Params) -> RegistryError:
    """Return the error for a project without a champion."""
    return RegistryError(f"{params.project.name} has no champion yet; `potstill run` makes one")
