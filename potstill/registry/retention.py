"""Which versions and Bentos of a registry are kept, and which may go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from potstill.registry.history import History
from potstill.registry.ledger import Line
from potstill.registry.promotion import Registry
from potstill.registry.versions import CHAMPION

_DAY_SECONDS = 86_400
# The facts of a line that name versions.
_VERSIONS = ("version", "expected", "restored")


@dataclass(frozen=True)
class Retention:
    """The versions of a registry, divided.

    Attributes:
        kept: version -> why it is kept.
        removable: the other versions that the ledger has registered, oldest first, those gone by hand included.
        bentos: tags of Bentos that the ledger names and no kept version needs.
    """

    kept: dict[str, str]
    removable: list[str]
    bentos: set[str]


def divide(registry: Registry, keep: int, days: float) -> Retention:
    """Decide which versions are kept: those with an alias, the newest, and those that the ledger protects.

    A veto and a rollback hold for a version, so these versions stay for good.

    Args:
        registry: the registry.
        keep: how many of the newest versions are kept.
        days: how long a line of the ledger protects the versions and the Bento that it names.

    Raises:
        RegistryError: the ledger was edited.
        StoreError: MLflow's store cannot be read.
    """
    lines = registry.ledger.lines()
    history = registry.history()
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - days * _DAY_SECONDS))
    recent = [line for line in lines if line.time >= since]
    numbers = [version.version for version in registry.versions()]
    kept = dict(_kept(registry, history, numbers[:keep], recent))
    kept = {number: kept[number] for number in numbers if number in kept}
    removable = [number for number in history.registered if number not in kept and number not in history.removed]
    named = {tag for line in lines if (tag := line.facts.get("bento"))}
    needed = {history.registered[number]["bento"] for number in kept if number in history.registered}
    return Retention(kept, sorted(removable, key=int), named - needed - {line.facts.get("bento") for line in recent})


def _kept(registry: Registry, history: History, newest: list[str], recent: list[Line]) -> Iterator[tuple[str, str]]:
    """Yield (version, why it is kept), the strongest reason last."""
    for line in recent:
        for number in filter(None, map(line.facts.get, _VERSIONS)):
            yield number, f"line {line.number} of the ledger, {line.time[:10]}"
    for number, facts in history.registered.items():
        if facts["candidate"] in history.rolled_back:
            yield number, "rolled back"
    for number in newest:
        yield number, "among the newest"
    for number in history.vetoed:
        yield number, "vetoed"
    for alias, number in registry.aliases().items():
        yield number, alias
    if history.champion is not None:
        yield history.champion, CHAMPION
