"""Steps of a change of the registry, each announced in the ledger, taken, and closed.

`finish` takes a step from wherever it stands, so that the first holder of the lease and the one that comes after a
crash do the same. Every write is preceded by a look whether the lease is still held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from potstill.errors import ChecksumError, RegistryError
from potstill.registry.history import History, read_history
from potstill.registry.lease import Lease, hold_lease
from potstill.registry.ledger import Ledger, Line
from potstill.registry.stored import prove
from potstill.registry.tracking import client
from potstill.registry.versions import (
    AGAINST,
    BENTO,
    CANDIDATE,
    CHALLENGER,
    CHAMPION,
    GATE,
    PREVIOUS,
    SETTLED,
    VETO,
    Version,
    Versions,
    passed,
)  # fmt: skip


class VetoedError(RegistryError):
    """A person has vetoed this version, so it is not registered or promoted again."""


class Steps:
    """What the holder of the lease does.

    Attributes:
        settled: one sentence for each step that a crash had cut off and that was finished or undone.
    """

    def __init__(self, versions: Versions, ledger: Ledger, lease: Lease) -> None:
        self._versions, self._ledger, self._lease = versions, ledger, lease
        self._lines = ledger.lines()
        self._store = client(versions.workspace)
        self.settled: list[str] = []
        for line in list(self.history.open.values()):
            self.settled.append(f"{line.action} was cut off: {self.finish(line, cut_off=True)}")

    @property
    def history(self) -> History:
        """The state after the ledger's lines so far."""
        return read_history(self._lines)

    # --- the ledger ---

    def announce(self, action: str, **facts: Any) -> Line:
        """Write down a step before it is taken."""
        return self._ledger.append(self._lines, self._lease, {"state": "open", "action": action, "facts": facts})

    def note(self, action: str, **facts: Any) -> Line:
        """Write down a decision that takes no step."""
        return self._ledger.append(self._lines, self._lease, {"state": "done", "action": action, "facts": facts})

    def close(self, line: Line, state: str, **facts: Any) -> None:
        """Write down that a step is `done` or `undone`."""
        about = {"state": state, "action": line.action, "intent": line.number, "facts": {**line.facts, **facts}}
        self._ledger.append(self._lines, self._lease, about)

    # --- writes ---

    def write(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A call of MLflow's client that changes the registry.

        Raises:
            BusyError: the lease was lost.
        """
        self._lease.check()
        return function(*arguments, **options)

    def point(self, alias: str, version: str | None) -> None:
        """Have an alias point at a version, or at none."""
        if version is not None:
            self.write(self._store.set_registered_model_alias, self._versions.name, alias, version)
        elif self._versions.by_alias(alias) is not None:
            self.write(self._store.delete_registered_model_alias, self._versions.name, alias)

    def tag(self, version: str, tags: dict[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self.write(self._store.set_model_version_tag, self._versions.name, version, key, value)

    def challenge(self, version: str) -> Version:
        """Make a version the challenger, unless it is the champion."""
        champion = self._versions.by_alias(CHAMPION)
        if champion is None or champion.version != version:
            self.point(CHALLENGER, version)
        return self._versions.get(version)

    # --- what a version has to be ---

    def examine(self, version: str) -> Version:
        """Refuse a version that may not be champion.

        Raises:
            RegistryError: it was vetoed, did not pass, or is not what the ledger says was judged, or its artifacts
                are gone.
            ChecksumError: the registry's bytes are not those it was registered with.
        """
        judged = self._versions.get(version)
        history = self.history
        refuse_vetoed(judged, self._versions.name, history)
        refuse_unjudged(judged, self._versions.name, history)
        prove(judged, history.registered[version], self._versions.workspace)
        return judged

    def fallback(self, vetoed: str) -> str | None:
        """The version that takes the place of a vetoed champion: the one before, else the newest that can."""
        history = self.history
        before = [each for each in reversed(history.lineup) if each != vetoed]
        others = [each.version for each in self._versions.versions() if int(each.version) < int(vetoed)]
        for version in [*before, *(each for each in others if each not in before)]:
            try:
                candidate = self.examine(version).candidate
            except (RegistryError, ChecksumError):
                continue
            if candidate not in history.taken_back:
                return version
        return None

    # --- steps ---

    def finish(self, line: Line, *, cut_off: bool = False) -> str:
        """Take what is left of a step, close it, and say what came of it.

        Args:
            line: that announced it.
            cut_off: whether somebody else had begun it; what may not be finished is then undone.
        """
        steps: dict[str, Callable[[Line], str]] = {
            "register": self._register, "promote": self._promote, "rollback": self._promote, "veto": self._veto,
        }  # fmt: skip
        if cut_off and line.action in ("promote", "rollback"):
            return self._promote_or_undo(line)
        return steps[line.action](line)

    def _register(self, line: Line) -> str:
        version = self._versions.by_candidate(line.facts["candidate"])
        if version is None:
            self.close(line, "undone")
            return "no version was made, so there was nothing to undo"
        if any(line.facts[key] != value for key, value in judged_facts(version.tags).items()):
            self.close(line, "undone")
            return f"version {version.version} did not get all of its evidence; run again to have it judged anew"
        self.challenge(version.version)
        self.close(line, "done", version=version.version)
        return f"finished, version {version.version} is registered"

    def _promote(self, line: Line) -> str:
        version = line.facts["version"]
        self.point(PREVIOUS, self._before_champion(line))
        self.point(CHAMPION, version)
        back = self._versions.by_alias(CHAMPION)
        if back is None or back.version != version:
            raise RegistryError(
                f"alias {CHAMPION} of {self._versions.name} reads back as {back.version if back else 'none'}, not "
                f"{version}: someone else writes to this registry; run again"
            )
        self._free(CHALLENGER, [version])
        self.close(line, "done")
        return f"finished, version {version} is champion"

    def _promote_or_undo(self, line: Line) -> str:
        version, expected = line.facts["version"], line.facts["expected"]
        current = self._versions.by_alias(CHAMPION)
        try:
            if (current.version if current else None) not in {version, expected}:
                raise RegistryError("someone else has moved the champion meanwhile")
            self.examine(version)
        except (RegistryError, ChecksumError) as error:
            if current is not None and current.version == version:
                self.point(CHAMPION, expected)
            self.point(PREVIOUS, self._before_champion(None))
            self.close(line, "undone", why=str(error)[:500])
            return f"undone, since {error}"
        return self._promote(line)

    def _veto(self, line: Line) -> str:
        version, restored = line.facts["version"], line.facts["restored"]
        if any(item.version == version for item in self._versions.versions()):
            self.tag(version, {VETO: line.facts["reason"]})
        if line.facts["was_champion"]:
            self.point(CHAMPION, restored)
        self._free(CHALLENGER, [version, restored])
        self.point(PREVIOUS, self._before_champion(line))
        self.close(line, "done")
        return f"finished, version {version} is vetoed"

    def _free(self, alias: str, versions: list[str | None]) -> None:
        """Take an alias away from these versions."""
        held = self._versions.by_alias(alias)
        if held is not None and held.version in versions:
            self.write(self._store.delete_registered_model_alias, self._versions.name, alias)

    def _before_champion(self, line: Line | None) -> str | None:
        """The version that was champion before the present one, once `line` is done."""
        lines = self._lines if line is None else [*self._lines, replace(line, state="done", intent=line.number)]
        after = read_history(lines)
        known = {each.version for each in self._versions.versions()}
        before = [each for each in reversed(after.lineup) if each != after.champion and each in known]
        return before[0] if before else None


@contextmanager
def changing(versions: Versions, ledger: Ledger, action: str) -> Iterator[Steps]:
    """Hold the registry's lease; what a crash had left open is settled first.

    Raises:
        BusyError: others have held it for 30 s.
        RegistryError: the ledger was edited.
    """
    with hold_lease(versions.workspace, versions.name, action) as lease:
        yield Steps(versions, ledger, lease)


def refuse_vetoed(version: Version, name: str, history: History) -> None:
    """Raises VetoedError where a person has vetoed the version."""
    line = history.vetoed.get(version.version)
    reason = version.tags.get(VETO) if line is None else line.facts["reason"]
    if reason is not None:
        raise VetoedError(f"version {version.version} of {name} was vetoed ({reason}); it stays out")


def refuse_unjudged(version: Version, name: str, history: History) -> None:
    """Raises RegistryError where a version did not pass, or carries other evidence than the ledger knows of."""
    facts = history.registered.get(version.version)
    if facts is None:
        raise RegistryError(
            f"version {version.version} of {name} is not in the registry's ledger: nothing proves how it was judged; "
            "`potstill run` judges and registers a candidate"
        )
    if not passed(version.tags.get(GATE, "")):
        raise RegistryError(
            f"version {version.version} of {name} carries no passed gate, so it cannot become champion; "
            "`potstill run` judges and registers a candidate"
        )
    now = judged_facts(version.tags)
    for tag, key in _SUMMED.items():
        if now[key] != facts[key]:
            raise RegistryError(
                f"tag {tag} of version {version.version} of {name} is not what was judged and registered: someone has "
                "edited it in MLflow; put it back, or run again to have the candidate judged anew"
            )


_SUMMED = {CANDIDATE: "candidate", GATE: "gate", BENTO: "bento", SETTLED: "settled", AGAINST: "against"}


def judged_facts(tags: dict[str, str]) -> dict[str, str | None]:
    """What the ledger keeps of a version's tags: short ones as they are, the gate's verdict as its sum."""
    facts = {key: tags.get(tag) for tag, key in _SUMMED.items()}
    facts["gate"] = hashlib.sha256(tags.get(GATE, "").encode()).hexdigest()
    return facts
