"""What the ledger's lines add up to: the champion, those before it, and what persons have decided."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from potstill.errors import RegistryError
from potstill.registry.ledger import Line


@dataclass
class History:
    """The state of a registry after all lines of its ledger.

    Attributes:
        lineup: versions that were champion, the present one last; those that were taken back or vetoed are out.
        champion: the present champion; None if there is none.
        registered: version -> facts of the line that registered it last.
        taken_back: sum of a candidate -> the line by which a person took it back.
        vetoed: version -> the line by which a person vetoed it.
        frozen: the line that froze automatic promotion; None while it is not frozen.
        open: lines of intents that were announced and not closed.
        known: whether the ledger has made or unmade a champion yet.
    """

    lineup: list[str] = field(default_factory=list)
    champion: str | None = None
    registered: dict[str, dict[str, Any]] = field(default_factory=dict)
    taken_back: dict[str, Line] = field(default_factory=dict)
    vetoed: dict[str, Line] = field(default_factory=dict)
    frozen: Line | None = None
    open: dict[int, Line] = field(default_factory=dict)
    known: bool = False

    def after(self, version: str) -> list[str]:
        """Versions that became champion after `version` last was, or the champion alone if it never was."""
        if version in self.lineup:
            return self.lineup[self.lineup.index(version) + 1 :]
        return [] if self.champion is None else [self.champion]

    def goes_back(self, version: str, champion: str | None) -> bool:
        """Whether making `version` the champion takes `champion`, the present one, back."""
        if champion is None or champion == version:
            return False
        return version in self.lineup or int(version) < int(champion)

    def of_candidate(self, candidate: str) -> str | None:
        """The newest version that was registered of a candidate."""
        found = [version for version, facts in self.registered.items() if facts["candidate"] == candidate]
        return max(found, key=int, default=None)


def read_history(lines: Iterable[Line]) -> History:
    """Add up the lines of a ledger.

    Raises:
        RegistryError: a newer Potstill wrote one.
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
    version, expected = line.facts["version"], line.facts["expected"]
    _be_champion(history, version, expected)
    if line.facts["person"]:
        _release(history, version)


def _rollback(history: History, line: Line) -> None:
    version, expected = line.facts["version"], line.facts["expected"]
    if expected is not None and not history.known:
        _be_champion(history, expected, None)  # one that a store had before it had a ledger
    taken_back = history.after(version)
    for each in taken_back:
        history.taken_back[_candidate(history, each)] = line
    history.lineup = [each for each in history.lineup if each not in taken_back]
    _be_champion(history, version, None)
    _release(history, version)


def _veto(history: History, line: Line) -> None:
    version, restored = line.facts["version"], line.facts["restored"]
    history.vetoed[version] = line
    history.lineup = [each for each in history.lineup if each != version]
    if line.facts["was_champion"]:
        history.champion = None
        history.known = True
        if restored is not None:
            if restored in history.lineup:
                history.lineup = history.lineup[: history.lineup.index(restored)]
            _be_champion(history, restored, None)


def _freeze(history: History, line: Line) -> None:
    history.frozen = line


def _unfreeze(history: History, line: Line) -> None:
    history.frozen = None


def _be_champion(history: History, version: str, expected: str | None) -> None:
    history.lineup = [each for each in history.lineup if each != version]
    if expected is not None and expected != version and expected not in history.lineup:
        history.lineup.append(expected)  # one that a store had before it had a ledger
    history.lineup.append(version)
    history.champion = version
    history.known = True


def _release(history: History, version: str) -> None:
    history.taken_back.pop(_candidate(history, version), None)


def _candidate(history: History, version: str) -> str:
    return str(history.registered.get(version, {}).get("candidate", f"version {version}"))


_ACTIONS = {
    "register": _register,
    "promote": _promote,
    "rollback": _rollback,
    "veto": _veto,
    "freeze": _freeze,
    "unfreeze": _unfreeze,
}
