"""The steps of a change of the registry: each is announced in the ledger, taken, and closed.

`finish` completes a step from any state, so that the first holder of the lease and the one after a crash do the same.
Before every write it is checked that the lease is still held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from potstill.artifacts import sha256_text
from potstill.errors import ChecksumError, RegistryError
from potstill.registry.history import History, read_history
from potstill.registry.lease import Lease, hold_lease
from potstill.registry.ledger import Ledger, Line
from potstill.registry.tracking import COMMIT, client
from potstill.registry.version_artifacts import delete_model, verify_version
from potstill.registry.versions import (
    AGAINST,
    BENTO,
    CANDIDATE,
    CHALLENGER,
    CHAMPION,
    DATA,
    EVIDENCE,
    GATE,
    LINEAGE,
    PARAMS,
    PREVIOUS,
    SETTLED,
    VETO,
    Version,
    Versions,
    passed,
)  # fmt: skip


class VetoedError(RegistryError):
    """A person has vetoed this version; it cannot be registered or promoted again."""


class Steps:
    """The steps of a holder of the lease.

    Attributes:
        settled: a sentence for each interrupted step that was finished or undone.
    """

    def __init__(self, versions: Versions, ledger: Ledger, lease: Lease) -> None:
        self._versions = versions
        self._ledger = ledger
        self._lease = lease
        self._lines = ledger.lines()
        self._store = client(versions.workspace)
        self.settled: list[str] = []
        for line in list(self.history.open.values()):
            self.settled.append(f"{line.action} was interrupted: {self.finish(line, interrupted=True)}")

    @property
    def history(self) -> History:
        """The state after all lines of the ledger so far."""
        return read_history(self._lines)

    # --- the ledger ---

    def announce(self, action: str, **facts: Any) -> Line:
        """Append the announcement of a step to the ledger."""
        return self._ledger.append(self._lines, self._lease, {"state": "open", "action": action, "facts": facts})

    def record(self, action: str, **facts: Any) -> Line:
        """Append a decision that needs no step."""
        return self._ledger.append(self._lines, self._lease, {"state": "done", "action": action, "facts": facts})

    def close(self, line: Line, state: str, **facts: Any) -> None:
        """Append that a step is `done` or `undone`."""
        closing = {"state": state, "action": line.action, "intent": line.number, "facts": {**line.facts, **facts}}
        self._ledger.append(self._lines, self._lease, closing)

    # --- writes ---

    def write(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method of MLflow's client that changes the registry.

        Raises:
            BusyError: the lease was lost.
        """
        self._lease.check()
        return function(*arguments, **options)

    def set_alias(self, alias: str, version: str | None) -> None:
        """Point an alias at a version; None deletes it."""
        if version is not None:
            self.write(self._store.set_registered_model_alias, self._versions.name, alias, version)
        elif self._versions.number_of(alias) is not None:
            self.write(self._store.delete_registered_model_alias, self._versions.name, alias)

    def tag(self, version: str, tags: dict[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self.write(self._store.set_model_version_tag, self._versions.name, version, key, value)

    def set_challenger(self, version: str) -> Version:
        """Make a version the challenger unless it is the champion."""
        if self._versions.number_of(CHAMPION) != version:
            self.set_alias(CHALLENGER, version)
        return self._versions.get(version)

    # --- requirements of a champion ---

    def examine(self, version: str) -> Version:
        """Check that a version may become champion, and return it.

        Raises:
            RegistryError: it was vetoed, did not pass, or is not what the ledger says was judged, or its artifacts
                are gone.
            ChecksumError: a file in the registry differs from what was registered.
        """
        candidate = self._versions.get(version)
        history = self.history
        refuse_vetoed(candidate, self._versions.name, history)
        refuse_unjudged(candidate, self._versions.name, history)
        verify_version(candidate, history.registered[version], self._versions.workspace)
        return candidate

    def champion_problem(self, version: str, champion: str | None) -> dict[str, str]:
        """Say what keeps the present champion from being restored after a promotion; empty if nothing does.

        A broken champion does not stop its successor, but the ledger and whoever decides are told.
        """
        if champion is None or champion == version:
            return {}
        try:
            self.examine(champion)
        except (RegistryError, ChecksumError) as error:
            return {"champion_problem": str(error)[:500]}
        return {}

    def fallback(self, vetoed: str) -> str | None:
        """Find the replacement of a vetoed champion: the latest former champion, else the newest older version."""
        history = self.history
        former = [number for number in reversed(history.champions) if number != vetoed]
        older = [item.version for item in self._versions.versions() if int(item.version) < int(vetoed)]
        for version in [*former, *(number for number in older if number not in former)]:
            try:
                candidate = self.examine(version).candidate
            except (RegistryError, ChecksumError):
                continue
            if candidate not in history.rolled_back:
                return version
        return None

    # --- steps ---

    def finish(self, line: Line, *, interrupted: bool = False) -> str:
        """Complete a step, close it, and return a sentence with the outcome.

        Args:
            line: the line that announced the step.
            interrupted: whether another process had begun it; it is undone if it may not be finished.
        """
        steps: dict[str, Callable[[Line], str]] = {
            "register": self._register, "promote": self._promote, "rollback": self._promote, "veto": self._veto,
            "remove": self._remove,
        }  # fmt: skip
        if interrupted and line.action in ("promote", "rollback"):
            return self._promote_or_undo(line)
        return steps[line.action](line)

    def _register(self, line: Line) -> str:
        version = self._versions.by_candidate(line.facts["candidate"])
        if version is None:
            self.close(line, "undone")
            return "no version was created, so there was nothing to undo"
        if edited_tags(line.facts, version.tags):
            self.close(line, "undone")
            return f"version {version.version} did not get all of its evidence; run again to have it judged"
        self.set_challenger(version.version)
        self.close(line, "done", version=version.version)
        return f"finished, version {version.version} is registered"

    def _promote(self, line: Line) -> str:
        version = line.facts["version"]
        self.set_alias(PREVIOUS, self._previous_champion(line))
        self.set_alias(CHAMPION, version)
        champion = self._versions.number_of(CHAMPION)
        if champion != version:
            raise RegistryError(
                f"alias {CHAMPION} of {self._versions.name} reads back as {champion or 'none'}, not {version}: someone "
                "else writes to this registry; run again"
            )
        self._remove_challenger(version)
        self.close(line, "done")
        return f"finished, version {version} is champion"

    def _promote_or_undo(self, line: Line) -> str:
        version = line.facts["version"]
        expected = line.facts["expected"]
        current = self._versions.number_of(CHAMPION)
        try:
            if current not in {version, expected}:
                raise RegistryError("someone else has moved the champion meanwhile")
            self.examine(version)
        except (RegistryError, ChecksumError) as error:
            if current == version:
                self.set_alias(CHAMPION, expected)
            self.set_alias(PREVIOUS, self._previous_champion(None))
            self.close(line, "undone", why=str(error)[:500])
            return f"undone, since {error}"
        return self._promote(line)

    def _veto(self, line: Line) -> str:
        version = line.facts["version"]
        restored = line.facts["restored"]
        if any(item.version == version for item in self._versions.versions()):
            self.tag(version, {VETO: line.facts["reason"]})
        if line.facts["was_champion"]:
            self.set_alias(CHAMPION, restored)
        self._remove_challenger(version, restored)
        self.set_alias(PREVIOUS, self._previous_champion(line))
        self.close(line, "done")
        return f"finished, version {version} is vetoed"

    def _remove(self, line: Line) -> str:
        version = line.facts["version"]
        if any(item.version == version for item in self._versions.versions()):
            self.write(self._store.delete_model_version, self._versions.name, version)
        delete_model(self._versions.workspace, line.facts["model"])
        self.close(line, "done")
        return f"finished, version {version} is removed"

    def _remove_challenger(self, *versions: str | None) -> None:
        """Delete the challenger's alias if it points at one of these versions."""
        current = self._versions.number_of(CHALLENGER)
        if current is not None and current in versions:
            self.write(self._store.delete_registered_model_alias, self._versions.name, CHALLENGER)

    def _previous_champion(self, line: Line | None) -> str | None:
        """Find the champion before the present one, as it is once `line` is done."""
        lines = self._lines if line is None else [*self._lines, replace(line, state="done", intent=line.number)]
        return read_history(lines).former({item.version for item in self._versions.versions()})


@contextmanager
def hold_registry(versions: Versions, ledger: Ledger, action: str) -> Iterator[Steps]:
    """Hold the lease on the registry inside the context; interrupted steps are settled first.

    Raises:
        BusyError: other processes have held the lease for 30 s.
        RegistryError: the ledger was edited.
    """
    with hold_lease(versions.workspace, versions.name, action) as lease:
        yield Steps(versions, ledger, lease)


def refuse_vetoed(version: Version, name: str, history: History) -> None:
    """Raise VetoedError if a person has vetoed the version."""
    line = history.vetoed.get(version.version)
    reason = version.tags.get(VETO) if line is None else line.facts["reason"]
    if reason is not None:
        raise VetoedError(f"version {version.version} of {name} was vetoed ({reason}); it stays out")


def refuse_unjudged(version: Version, name: str, history: History) -> None:
    """Raise RegistryError if a version did not pass, or its evidence differs from the ledger's."""
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
    for tag in edited_tags(facts, version.tags):
        raise RegistryError(
            f"tag {tag} of version {version.version} of {name} is not what was judged and registered: someone has "
            "edited it in MLflow; put it back, or run again to have the candidate judged anew"
        )


_FACT_OF_TAG = {
    CANDIDATE: "candidate", GATE: "gate", BENTO: "bento", SETTLED: "settled", AGAINST: "against", PARAMS: "params",
    DATA: "data", COMMIT: "commit", EVIDENCE: "evidence", LINEAGE: "lineage",
}  # fmt: skip
# Tags whose values are too long for a line of the ledger.
_HASHED = (GATE, PARAMS, DATA)


def judged_facts(tags: Mapping[str, str]) -> dict[str, str | None]:
    """Select the facts that the ledger keeps of a version's tags: short ones as they are, long ones as their sha256."""
    facts = {key: tags.get(tag) for tag, key in _FACT_OF_TAG.items()}
    return facts | {_FACT_OF_TAG[tag]: sha256_text(tags.get(tag, "")) for tag in _HASHED}


def edited_tags(facts: Mapping[str, Any], tags: Mapping[str, str]) -> list[str]:
    """List the tags that differ from the ledger's facts. A line of an older Potstill has fewer facts."""
    current = judged_facts(tags)
    return [tag for tag, key in _FACT_OF_TAG.items() if key in facts and current[key] != facts[key]]
