"""The champion of a workspace, as its registry has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.config.params import Params
from potstill.errors import RegistryError

if TYPE_CHECKING:
    from potstill.registry.versions import Version


def find_champion(workspace: Path, params: Params) -> Version:
    """The champion; a store is not made by looking.

    Raises:
        RegistryError: there is none.
    """
    from potstill.registry import tracking
    from potstill.registry.promotion import Registry

    found = Registry(workspace, params.project.name).champion() if tracking.has_store(workspace) else None
    if found is None:
        raise no_champion(params)
    return found


def no_champion(params: Params) -> RegistryError:
    """What is said where there is none."""
    return RegistryError(f"{params.project.name} has no champion yet; `potstill run` makes one")
