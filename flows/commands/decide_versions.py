"""The commands by which a person decides about the versions in a workspace's registry.

A decision takes the registry's lease and not the run lock, so that nobody waits for a training run to stop a promotion.
"""

from __future__ import annotations

from pathlib import Path

from flows.engine.champions import no_champion
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.paths import PARAMS
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.registry.versions import Version
from tasks import package


def approve(workspace: Path, version: str) -> str:
    """Make a version that passed its gates the champion; returns the sentence to print."""
    params, registry = _open(workspace)
    return _champion_sentence(params, registry.approve(version))


def roll_back(workspace: Path, version: str | None, reason: str) -> str:
    """Return to an older version, by default the previous champion; returns the sentence to print."""
    params, registry = _open(workspace)
    return _champion_sentence(params, registry.roll_back(version, reason))


def veto(workspace: Path, version: str, reason: str) -> str:
    """Refuse a version for good; returns the sentence to print."""
    params, registry = _open(workspace)
    champion = registry.veto(version, reason)
    champion_name = "none" if champion is None else f"version {champion}"
    return f"version {version} of {params.project.name} is vetoed; champion: {champion_name}"


def freeze(workspace: Path, reason: str) -> str:
    """Stop automatic promotion; returns the sentence to print."""
    params, registry = _open(workspace)
    registry.freeze(reason)
    return f"promotion of {params.project.name} is frozen; candidates that pass wait until `potstill unfreeze`"


def unfreeze(workspace: Path, reason: str) -> str:
    """Allow automatic promotion again; returns the sentence to print."""
    params, registry = _open(workspace)
    was_frozen = registry.unfreeze(reason)
    state = "is not frozen any more" if was_frozen else "was not frozen"
    return f"promotion of {params.project.name} {state}"


def history(workspace: Path, lines: int) -> str:
    """Return the newest lines of the ledger, oldest first."""
    _, registry = _open(workspace)
    return "\n".join(line.sentence for line in registry.ledger.lines()[-lines:]) or "the ledger has no lines yet"


def fetch(workspace: Path, version: str) -> str:
    """Bring a version's Bento here; returns the sentence to print."""
    params, _ = _open(workspace)
    packaged = package.fetch(params, workspace, version)
    return f"{packaged.tag} is in {packaged.path}; `potstill serve --tag {packaged.tag}` serves it"


def _open(workspace: Path) -> tuple[Params, Registry]:
    params = load_params(workspace / PARAMS)
    if not tracking.has_store(workspace):
        raise no_champion(params)
    return params, Registry(workspace, params.project.name)


def _champion_sentence(params: Params, champion: Version) -> str:
    return f"version {champion.version} of {params.project.name} is champion; `potstill serve` serves {champion.bento}"
