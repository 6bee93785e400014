"""The state of a registry, replayed from its ledger: the champions, and the decisions of persons."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from potstill.errors import RegistryError
from potstill.registry.ledger import Line


@dataclass
class History:
    """The state of a registry after all lines of its ledger.

    Attributes:
        champions: versions that were champion, the present one last, without those rolled back or vetoed.
        champion: the present champion; None if there is none.
        registered: version -> facts of the newest line that registered it.
        rolled_back: candidate -> the line by which a person rolled it back.
        vetoed: version -> the line by which a person vetoed it.
        removed: versions that `potstill gc` removed.
        frozen: the line that froze automatic promotion; None if promotion is not frozen.
        open: intents that were announced and not closed, by line number.
        knows_champion: whether the ledger has made or removed a champion yet.
    """

    champions: list[str] = field(default_factory=list)
    champion: str | None = None
    registered: dict[str, dict[str, Any]] = field(default_factory=dict)
    rolled_back: dict[str, Line] = field(default_factory=dict)
    vetoed: dict[str, Line] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    frozen: Line | None = None
    open: dict[int, Line] = field(default_factory=dict)
    knows_champion: bool = False

    def champions_after(self, version: str) -> list[str]:
        """List the versions that became champion after a version; if it never was champion, the present one."""
        if version in self.champions:
            return self.champions[self.champions.index(version) + 1 :]
        return [] if self.champion is None else [self.champion]

    def former(self, existing: Container[str]) -> str | None:
        """Find the latest former champion among the versions that exist."""
        numbers = (number for number in reversed(self.champions) if number != self.champion and number in existing)
        return next(numbers, None)

    def is_rollback(self, version: str, champion: str | None) -> bool:
        """Whether replacing the present champion by a version is a rollback."""
        if champion is None or champion == version:
            return False
        return version in self.champions or int(version) < int(champion)

    def version_of(self, candidate: str) -> str | None:
        """Find the newest version that was registered for a candidate."""
        versions = [version for version, facts in self.registered.items() if facts["candidate"] == candidate]
        return max(versions, key=int, default=None)


def read_history(lines: Iterable[Line]) -> History:
    """Replay the lines of a ledger.

    Raises:
        RegistryError: a line was written by a newer Potstill.
    """
    history = History()
    for line in lines:
        if line.state == "open":
            history.open[line.number] = line
            continue
        history.open.pop(line.intent, None)
        if line.action not in _ACTIONS:
            raise RegistryError(
                f"line {line.number} of the ledger tells of {line.action!r}, which this Potstill is too old for"
            )
        if line.state == "done":
            _ACTIONS[line.action](history, line)
    return history


def _register(history: History, line: Line) -> None:
    history.registered[line.facts["version"]] = line.facts


def _promote(history: History, line: Line) -> None:
    version = line.facts["version"]
    _make_champion(history, version, line.facts["expected"])
    if line.facts["person"]:
        _clear_rollback(history, version)


def _rollback(history: History, line: Line) -> None:
    version = line.facts["version"]
    champion = line.facts["expected"]
    if champion is not None and not history.knows_champion:
        _make_champion(history, champion, None)  # promoted before the store had a ledger
    rolled_back = history.champions_after(version)
    for later in rolled_back:
        history.rolled_back[_candidate(history, later)] = line
    history.champions = [champion for champion in history.champions if champion not in rolled_back]
    _make_champion(history, version, None)
    _clear_rollback(history, version)


def _veto(history: History, line: Line) -> None:
    version = line.facts["version"]
    restored = line.facts["restored"]
    history.vetoed[version] = line
    history.champions = [champion for champion in history.champions if champion != version]
    if not line.facts["was_champion"]:
        return
    history.champion = None
    history.knows_champion = True
    if restored in history.champions:
        history.champions = history.champions[: history.champions.index(restored)]
    if restored is not None:
        _make_champion(history, restored, None)


def _remove(history: History, line: Line) -> None:
    version = line.facts["version"]
    history.removed.add(version)
    history.champions = [champion for champion in history.champions if champion != version]


def _freeze(history: History, line: Line) -> None:
    history.frozen = line


def _unfreeze(history: History, line: Line) -> None:
    history.frozen = None


def _make_champion(history: History, version: str, former: str | None) -> None:
    history.champions = [champion for champion in history.champions if champion != version]
    if former is not None and former != version and former not in history.champions:
        history.champions.append(former)  # promoted before the store had a ledger
    history.champions.append(version)
    history.champion = version
    history.knows_champion = True


def _clear_rollback(history: History, version: str) -> None:
    history.rolled_back.pop(_candidate(history, version), None)


def _candidate(history: History, version: str) -> str:
    return str(history.registered.get(version, {}).get("candidate", f"version {version}"))


_ACTIONS = {
    "register": _register,
    "promote": _promote,
    "rollback": _rollback,
    "veto": _veto,
    "remove": _remove,
    "freeze": _freeze,
    "unfreeze": _unfreeze,
}
