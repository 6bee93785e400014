"""Decisions about the versions of a model: register, promote, approve, roll back, veto, freeze.

MLflow keeps versions and aliases; what it does not do is done here. An alias is moved by compare-and-swap under a lease
that all machines see, and read back. What persons decide is in the ledger, and no later run undoes it.
A champion deleted by hand is noticed (its alias vanishes silently), and a step cut off by a crash is finished or undone
by whoever changes the registry next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill.artifacts import verify
from potstill.errors import ApprovalPendingError, ChecksumError, RegistryError
from potstill.paths import FETCHED_MODELS
from potstill.registry import stored
from potstill.registry.history import History, read_history
from potstill.registry.ledger import Ledger, Line, clean_reason
from potstill.registry.steps import changing, judged_facts, refuse_vetoed
from potstill.registry.stored import SERVING
from potstill.registry.versions import (
    AGAINST,
    BENTO,
    CANDIDATE,
    CHALLENGER,
    CHAMPION,
    GATE,
    MODEL_ID,
    PREVIOUS,
    SETTLED,
    VETO,
    Version,
    Versions,
    candidate_sum,
    facts_of,
)  # fmt: skip

__all__ = [
    "AGAINST", "BENTO", "CANDIDATE", "CHALLENGER", "CHAMPION", "GATE", "PREVIOUS", "SERVING", "SETTLED", "VETO",
    "Registry", "Version", "candidate_sum", "facts_of",
]  # fmt: skip


class Registry(Versions):
    """The registered model of one project."""

    def __init__(self, workspace: Path, name: str) -> None:
        super().__init__(workspace, name)
        self.ledger = Ledger(workspace, name)

    # --- reading ---

    def history(self) -> History:
        """The state that the ledger tells of.

        Raises:
            RegistryError: the ledger was edited.
        """
        return read_history(self.ledger.lines())

    def champion(self) -> Version | None:
        """The champion, None if none was ever promoted.

        Raises:
            RegistryError: the alias is not where the ledger says: someone deleted the version or moved it by hand.
        """
        for _ in range(3):
            history, champion = self.history(), self.by_alias(CHAMPION)
            number = champion.version if champion else None
            if history.open or not history.known or number == history.champion:
                return champion
            # A change between the two looks is no fault; one that stays is.
        if champion is None:
            raise RegistryError(
                f"the registry has no champion of {self.name}, though version {history.champion} was promoted last: it "
                "was deleted or its alias was taken away by hand; `potstill approve VERSION` makes another version the "
                f"champion, `potstill veto {history.champion} --reason ...` goes on without it"
            )
        raise RegistryError(
            f"alias {CHAMPION} of {self.name} points at version {number}, which the ledger does not know of (it has "
            f"{history.champion or 'none'}): it was moved by hand; `potstill approve VERSION` settles which it is"
        )

    def held_back(self, candidate: str) -> str | None:
        """The sentence that says why a candidate is not promoted although it passed: a person took it back."""
        return self._held_back(candidate, self.history())

    def fetch(self, version: str) -> Path:
        """Bring a version's serving folder here, verified, and return it.

        Args:
            version: number or alias.

        Raises:
            RegistryError: no such version, or its artifacts are gone.
            ChecksumError: its bytes are not those it was registered with.
        """
        wanted = self.get(version)
        folder = self.workspace / FETCHED_MODELS / f"{self.name}-{wanted.version}-{wanted.candidate[:12]}"
        if not _is_whole(folder, wanted.candidate):
            stored.copy_serving(wanted, folder, self.workspace)
        return folder

    def bento_of(self, version: Version) -> str:
        """The tag of the Bento that was registered with a version.

        Raises:
            RegistryError: the ledger has none.
        """
        tag: str | None = self._registered(version).get("bento")
        if tag is None:
            raise RegistryError(f"version {version.version} of {self.name} has no Bento; `potstill run` packages one")
        return tag

    def fetch_bento(self, version: Version, folder: Path) -> None:
        """Make `folder` the Bento that was registered with a version, byte for byte.

        Raises:
            RegistryError: its artifacts are gone, or the ledger has no Bento of it.
            ChecksumError: its bytes are not those it was registered with.
        """
        stored.copy_bento(version, self._registered(version), folder, self.workspace)

    # --- decisions ---

    def register(
        self,
        *,
        candidate: str,
        model: Path,
        extras: Path | None,
        seal: str | None,
        experiment: str,
        run_id: str,
        tags: Mapping[str, str],
        description: str,
    ) -> Version:
        """Register a candidate as `challenger`; one that is registered already is only given the new tags.

        Files are uploaded before the registry is held, so that nobody waits for them.

        Args:
            candidate: from `candidate_sum`.
            model: a folder in MLflow's model format; the serving folder lies in it at `SERVING`.
            extras: a folder of further artifacts, with the Bento as `stored.pack_bento` leaves it.
            seal: the Bento's, from `stored.pack_bento`.
            experiment: id of the experiment it belongs to.
            run_id: the run that made it.
            tags: evidence kept with the version.
            description: shown in MLflow's page.

        Raises:
            RegistryError: a person has vetoed it.
            BusyError: another process is changing the registry.
        """
        known = self.by_candidate(candidate)
        if known is not None:
            return self._register_again(known, extras, seal, dict(tags))
        logged = self._client.create_logged_model(experiment, name=self.name, source_run_id=run_id)
        for folder in filter(None, (model, extras)):
            self._client.log_model_artifacts(logged.model_id, str(folder))
        self._client.finalize_logged_model(logged.model_id, "READY")
        all_tags = {CANDIDATE: candidate, MODEL_ID: logged.model_id, **tags}
        with changing(self, self.ledger, "register") as steps:
            if self.by_candidate(candidate) is None:
                intent = steps.announce("register", run_id=run_id, seal=seal, **judged_facts(all_tags))
                self._ensure_model()
                steps.write(
                    self._client.create_model_version,
                    self.name,
                    logged.artifact_location,
                    run_id=run_id,
                    tags=all_tags,
                    description=description,
                    model_id=logged.model_id,
                )
                steps.finish(intent)
                return self._of_candidate(candidate)
        # Another machine registered the same candidate meanwhile.
        self._client.delete_logged_model(logged.model_id)
        return self._register_again(self._of_candidate(candidate), extras, seal, dict(tags))

    def promote(self, version: str, *, expected: str | None, person: bool = False) -> Version:
        """Make a version the champion if the champion still is `expected`, and keep the old one as `previous`.

        Args:
            version: number of the version.
            expected: number of the champion the decision was made against; None for none.
            person: whether a person decides, who is not held up by what persons decided before.

        Raises:
            ApprovalPendingError: a person has frozen promotion or taken this version back.
            RegistryError: it was vetoed or did not pass its gates, the champion has changed meanwhile, or the alias
                does not read back.
            ChecksumError: its bytes are not those it was registered with.
            BusyError: another process is changing the registry.
        """
        self._expect(version, expected)
        with changing(self, self.ledger, f"promote {version}") as steps:
            current = self._expect(version, expected)
            history = steps.history
            if current is not None and current.version == version and history.champion == version:
                return current
            judged = steps.examine(version)
            if not person:
                self._refuse_held(judged, history)
            if person and history.goes_back(version, expected):
                intent = steps.announce(
                    "rollback", version=version, expected=expected, reason=f"approved version {version}"
                )
            else:
                intent = steps.announce("promote", version=version, expected=expected, person=person)
            steps.finish(intent)
            return self.get(version)

    def approve(self, version: str) -> Version:
        """A person's decision: make a version that passed its gates the champion.

        Going back to an older version takes back those that came after it, as `roll_back` does.

        Args:
            version: number or alias.

        Raises:
            RegistryError, ChecksumError, BusyError: see `promote`.
        """
        champion = self.by_alias(CHAMPION)
        return self.promote(self.get(version).version, expected=champion.version if champion else None, person=True)

    def roll_back(self, version: str | None, reason: str) -> Version:
        """A person's decision: return to an older version. Those that came after it stay back.

        Args:
            version: number or alias; None for the one that was champion before.
            reason: why; kept in the ledger.

        Raises:
            RegistryError: there is nothing to return to, or the version may not be champion.
            ChecksumError: its bytes are not those it was registered with.
            BusyError: another process is changing the registry.
        """
        with changing(self, self.ledger, "roll back") as steps:
            history = steps.history
            champion = self.by_alias(CHAMPION)
            number = self._target(version, history)
            if champion is not None and number == champion.version and history.champion == number:
                raise RegistryError(f"version {number} of {self.name} is the champion already")
            steps.examine(number)
            intent = steps.announce(
                "rollback",
                version=number,
                expected=champion.version if champion else None,
                reason=clean_reason(reason),
            )
            steps.finish(intent)
            return self.get(number)

    def veto(self, version: str, reason: str) -> str | None:
        """Forbid a version for good; if it is the champion, an older one that may be takes its place.

        Returns:
            The version that is champion now.

        Raises:
            RegistryError: no such version, and the ledger does not know it either.
            BusyError: another process is changing the registry.
        """
        with changing(self, self.ledger, f"veto {version}") as steps:
            history, current = steps.history, self.by_alias(CHAMPION)
            if not version.isdecimal():
                version = self.get(version).version
            if version != history.champion and version not in {item.version for item in self.versions()}:
                raise RegistryError(f"{self.name} has no version {version!r}; `potstill status` shows those there are")
            was_champion = history.champion == version or (current is not None and current.version == version)
            restored = steps.fallback(version) if was_champion else None
            intent = steps.announce(
                "veto", version=version, reason=clean_reason(reason), restored=restored, was_champion=was_champion
            )
            steps.finish(intent)
            now = self.by_alias(CHAMPION)
            return now.version if now else None

    def freeze(self, reason: str) -> None:
        """A person's decision: nothing becomes champion by itself until `unfreeze`."""
        with changing(self, self.ledger, "freeze") as steps:
            steps.note("freeze", reason=clean_reason(reason))

    def unfreeze(self, reason: str) -> bool:
        """Let candidates become champion by themselves again. Returns whether promotion was frozen."""
        with changing(self, self.ledger, "unfreeze") as steps:
            if steps.history.frozen is None:
                return False
            steps.note("unfreeze", reason=clean_reason(reason))
            return True

    def reconcile(self) -> list[str]:
        """Finish or undo what a crash cut off. Returns one sentence for each step; call it at the start of a run."""
        if not self.history().open:
            return []
        with changing(self, self.ledger, "reconcile") as steps:
            return steps.settled

    # --- parts of decisions ---

    def _register_again(self, known: Version, extras: Path | None, seal: str | None, tags: dict[str, str]) -> Version:
        """Give a registered candidate new evidence, and a Bento if the new one is another."""
        history = self.history()
        refuse_vetoed(known, self.name, history)
        facts = history.registered.get(known.version, {})
        if facts.get("seal") and facts["bento"] == tags.get(BENTO):
            seal = facts["seal"]
        elif extras is not None:
            self._client.log_model_artifacts(_model_id(known), str(extras))
        with changing(self, self.ledger, f"register {known.version}") as steps:
            refuse_vetoed(known, self.name, steps.history)
            now = {"run_id": known.run_id, "seal": seal, **judged_facts({**known.tags, **tags})}
            if {**facts, **now} != facts or judged_facts(known.tags) != judged_facts({**known.tags, **tags}):
                intent = steps.announce("register", **now)
                steps.tag(known.version, tags)
                steps.finish(intent)
            return steps.challenge(known.version)

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _of_candidate(self, candidate: str) -> Version:
        version = self.by_candidate(candidate)
        if version is None:
            raise RegistryError(f"the version of {self.name} that was registered just now is gone; run again")
        return version

    def _expect(self, version: str, expected: str | None) -> Version | None:
        """The champion, if it is the expected one."""
        current = self.by_alias(CHAMPION)
        if (current.version if current else None) != expected:
            raise RegistryError(
                f"the champion of {self.name} is version {current.version if current else 'none'} now, not "
                f"{expected or 'none'} as when version {version} was judged; run again"
            )
        return current

    def _refuse_held(self, version: Version, history: History) -> None:
        held = self._held_back(version.candidate, history)
        if held is not None:
            raise ApprovalPendingError(held)
        if history.frozen is not None:
            raise ApprovalPendingError(
                f"version {version.version} of {self.name} passed its gates and waits as {CHALLENGER}: promotion is "
                f"frozen {_by(history.frozen)}; `potstill approve {version.version}` makes it the {CHAMPION}, "
                "`potstill unfreeze` lets the next run do it"
            )

    def _held_back(self, candidate: str, history: History) -> str | None:
        line = history.taken_back.get(candidate)
        if line is None:
            return None
        number = history.of_candidate(candidate)
        return (
            f"version {number} of {self.name} was rolled back {_by(line)} and stays back; "
            f"`potstill approve {number}` makes it the {CHAMPION} again"
        )

    def _target(self, version: str | None, history: History) -> str:
        if version is not None:
            return self.get(version).version
        before = [each for each in history.lineup if each != history.champion]
        if not before:
            raise RegistryError(f"{self.name} has no version that was champion before; name one")
        return before[-1]

    def _registered(self, version: Version) -> dict[str, Any]:
        facts = self.history().registered.get(version.version)
        if facts is None:
            raise RegistryError(
                f"version {version.version} of {self.name} is not in the registry's ledger; `potstill run` judges, "
                "packages and registers a candidate"
            )
        return facts


def _by(line: Line) -> str:
    """By whom, when and why, as part of a sentence."""
    return f"by {line.by} on {line.time[:10]} ({line.facts['reason']})"


def _model_id(version: Version) -> str:
    """The logged model of a version; one that was registered before its tag was kept names it in its source."""
    named = version.tags.get(MODEL_ID) or next(iter(re.findall(r"/models/(m-[^/]+)", version.source)), None)
    if named is None:
        raise RegistryError(
            f"version {version.version} has no logged model to add its Bento to; delete it and run again"
        )
    return named


def _is_whole(folder: Path, candidate: str) -> bool:
    try:
        verify(folder)
    except ChecksumError:
        return False
    return candidate_sum(folder) == candidate
