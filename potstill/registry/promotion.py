"""Decisions about the versions of a model: register, promote, approve, roll back, veto, freeze.

MLflow keeps versions and aliases. This module adds what MLflow lacks: an alias is moved by compare-and-swap under a
lease that all machines see, and then read back. The decisions of persons are in the ledger, and no later run undoes
them. A champion that was deleted by hand is detected, although its alias vanishes silently. The next process that
changes the registry finishes or undoes a step that a crash interrupted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.artifacts import MANIFEST, is_whole, sha256_file
from potstill.compute.processes import hold
from potstill.errors import ApprovalPendingError, RegistryError
from potstill.paths import COPIES_LOCK, FETCHED_MODELS
from potstill.registry.history import History, read_history
from potstill.registry.ledger import Ledger, Line, clean_reason
from potstill.registry.steps import hold_registry, judged_facts, refuse_vetoed
from potstill.registry.store_calls import suppress_answers
from potstill.registry.version_artifacts import copy_bento, copy_evidence, copy_serving, delete_model, verify_version
from potstill.registry.versions import (
    BENTO,
    CANDIDATE,
    CHALLENGER,
    CHAMPION,
    MODEL_ID,
    Version,
    Versions,
    candidate_sum,
)

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient


# How long a command waits for another one that copies from the registry.
_COPY_SECONDS = 900.0


class Registry(Versions):
    """The registered model of one project.

    Args:
        workspace: the workspace.
        name: name of the project.
        store: the reader, such as `store_reader.reader`; MLflow's client by default, which also writes.
    """

    def __init__(self, workspace: Path, name: str, store: MlflowClient | None = None) -> None:
        super().__init__(workspace, name, store)
        self.ledger = Ledger(workspace, name, store)

    # --- reading ---

    def history(self) -> History:
        """Read the state from the ledger.

        Raises:
            RegistryError: the ledger was edited.
        """
        return read_history(self.ledger.lines())

    def champion(self) -> Version | None:
        """Find the champion, or None if none was ever promoted.

        Raises:
            RegistryError: the alias contradicts the ledger: someone deleted the version or moved the alias by hand.
        """
        for _ in range(3):
            history = self.history()
            champion = self.by_alias(CHAMPION)
            number = champion.version if champion else None
            if history.open or not history.knows_champion or number == history.champion:
                return champion
            # The registry may change between the two reads; only a lasting difference is an error.
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
        """Explain why a candidate that passed is not promoted: a person has rolled it back. None if it is not."""
        return self._held_back(candidate, self.history())

    def fetch(self, version: str) -> Path:
        """Copy a version's serving folder into the workspace, verify it, and return its path.

        Args:
            version: number or alias.

        Raises:
            RegistryError: there is no such version, or its artifacts are gone.
            ChecksumError: a file differs from what was registered.
            BusyError: another process has copied for a quarter of an hour.
        """
        item = self.get(version)
        return self._copied(
            f"{self.name}-{item.version}-{item.candidate[:12]}",
            lambda folder: is_whole(folder) and candidate_sum(folder) == item.candidate,
            lambda folder: copy_serving(item, folder, self.workspace),
        )

    def fetch_evidence(self, version: Version) -> Path | None:
        """Copy what a version was judged by into the workspace, verify it, and return its folder.

        Returns:
            None if the version was registered by a Potstill that kept no evidence with versions.

        Raises:
            RegistryError: its artifacts are gone.
            ChecksumError: a file differs from what was registered.
            BusyError: as `fetch`.
        """
        seal: str | None = self._registered(version).get("evidence")
        if seal is None:
            return None
        return self._copied(
            f"{self.name}-{version.version}-evidence-{seal[:12]}",
            lambda folder: is_whole(folder) and sha256_file(folder / MANIFEST) == seal,
            lambda folder: copy_evidence(version, seal, folder, self.workspace),
        )

    def _copied(self, name: str, is_intact: Callable[[Path], bool], copy: Callable[[Path], None]) -> Path:
        """Return a copy in the workspace. Where it is missing, one process makes it and the others wait."""
        folder = self.workspace / FETCHED_MODELS / name
        if not is_intact(folder):
            with hold(self.workspace / COPIES_LOCK, what="copying from the registry", wait_seconds=_COPY_SECONDS):
                if not is_intact(folder):
                    copy(folder)
        return folder

    def verify(self, version: Version) -> None:
        """Check a version's model and Bento in the registry against the ledger.

        Raises:
            RegistryError: its artifacts are gone, or it is not in the ledger.
            ChecksumError: a file differs from what was registered.
        """
        verify_version(version, self._registered(version), self.workspace)

    def bento_of(self, version: Version) -> str:
        """Return the tag of the Bento that was registered with a version.

        Raises:
            RegistryError: the ledger has none.
        """
        tag: str | None = self._registered(version).get("bento")
        if tag is None:
            raise RegistryError(f"version {version.version} of {self.name} has no Bento; `potstill run` packages one")
        return tag

    def fetch_bento(self, version: Version, folder: Path) -> None:
        """Copy the Bento that was registered with a version to `folder`, byte for byte.

        Raises:
            RegistryError: its artifacts are gone, or the ledger has no Bento of it.
            ChecksumError: a file differs from what was registered.
        """
        copy_bento(version, self._registered(version), folder, self.workspace)

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
        evidence: Path | None = None,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Version:
        """Register a candidate as `challenger`; a candidate that is already registered only gets the new tags.

        Files are uploaded before the lease is taken, so that no other process waits for them.

        Args:
            candidate: id from `candidate_sum`.
            model: a folder in MLflow's model format, with the serving folder at `version_artifacts.SERVING`.
            extras: a folder of further artifacts, with the Bento as `version_artifacts.pack_bento` packs it.
            seal: the Bento's sha256 from `version_artifacts.pack_bento`.
            experiment: id of its experiment.
            run_id: id of its run.
            tags: evidence that is stored with the version.
            description: text for MLflow's page.
            evidence: a folder with the evidence as `version_artifacts.pack_evidence` packs it.
            params: params of the model for MLflow's page.
            metrics: numbers of the model for MLflow's page.

        Raises:
            RegistryError: a person has vetoed the candidate.
            BusyError: another process is changing the registry.
        """
        registered = self.by_candidate(candidate)
        if registered is not None:
            return self._register_again(registered, extras, seal, dict(tags), evidence, description)
        logged = self._log_model([model, extras, evidence], experiment, run_id, params or {}, metrics or {})
        all_tags = {CANDIDATE: candidate, MODEL_ID: logged.model_id, **tags}
        with hold_registry(self, self.ledger, "register") as steps:
            if self.by_candidate(candidate) is None:
                intent = steps.announce("register", run_id=run_id, seal=seal, **judged_facts(all_tags))
                with suppress_answers("RESOURCE_ALREADY_EXISTS"):
                    self._client.create_registered_model(self.name)
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
        delete_model(self.workspace, logged.model_id)
        return self._register_again(self._of_candidate(candidate), extras, seal, dict(tags), evidence, description)

    def promote(
        self, version: str, *, expected: str | None, person: bool = False, reason: str | None = None
    ) -> Version:
        """Make a version the champion if the champion is still `expected`; the old one becomes `previous`.

        Args:
            version: number of the version.
            expected: number of the champion at the time of the decision, or None.
            person: whether a person decides; earlier freezes and rollbacks do not hold then.
            reason: reason for the ledger.

        Raises:
            ApprovalPendingError: a person has frozen promotion or rolled this version back.
            RegistryError: the version was vetoed or did not pass its gates, the champion has changed meanwhile, or the
                alias does not read back.
            ChecksumError: a file differs from what was registered.
            BusyError: another process is changing the registry.
        """
        self._expect(version, expected, own_is_fine=not person)
        with hold_registry(self, self.ledger, f"promote {version}") as steps:
            self._expect(version, expected, own_is_fine=not person)
            history = steps.history
            # Of two runs that made the same candidate, the other one may have promoted it.
            if history.champion == version and (expected == version or not person):
                return self.get(version)
            candidate = steps.examine(version)
            if not person:
                self._refuse_held_back(candidate, history)
            facts = {"version": version, "expected": expected} | steps.champion_problem(version, expected)
            if person and history.is_rollback(version, expected):
                intent = steps.announce("rollback", **facts, reason=clean_reason(reason or f"approved {version}"))
            else:
                facts |= {"reason": clean_reason(reason)} if reason else {}
                intent = steps.announce("promote", **facts, person=person)
            steps.finish(intent)
            return self.get(version)

    def approve(self, version: str, reason: str | None = None) -> Version:
        """Make a version that passed its gates the champion, by a person's decision.

        Approving an older version rolls back all later ones, as `roll_back` does.

        Args:
            version: number or alias.
            reason: reason for the ledger.

        Raises:
            RegistryError, ChecksumError, BusyError: see `promote`.
        """
        return self.promote(self.get(version).version, expected=self.number_of(CHAMPION), person=True, reason=reason)

    def finished_lines(self, version: str) -> list[Line]:
        """List the ledger's lines of what was done with a version, oldest first."""
        return [line for line in self.ledger.lines() if line.state == "done" and line.facts.get("version") == version]

    def decision(self, version: str) -> Line | None:
        """Find the newest line of the ledger that decided about a version; None if there is none."""
        lines = self.finished_lines(version)
        return next((line for line in reversed(lines) if line.action != "register"), None)

    def roll_back(self, version: str | None, reason: str) -> Version:
        """Return to an older version, by a person's decision; later versions are not promoted again.

        Args:
            version: number or alias; None for the former champion.
            reason: reason for the ledger.

        Raises:
            RegistryError: there is no former champion, or the version may not be champion.
            ChecksumError: a file differs from what was registered.
            BusyError: another process is changing the registry.
        """
        with hold_registry(self, self.ledger, "roll back") as steps:
            history = steps.history
            champion = self.number_of(CHAMPION)
            number = self._rollback_target(version, history)
            if number == champion == history.champion:
                raise RegistryError(f"version {number} of {self.name} is the champion already")
            steps.examine(number)
            intent = steps.announce("rollback", version=number, expected=champion, reason=clean_reason(reason))
            steps.finish(intent)
            return self.get(number)

    def veto(self, version: str, reason: str) -> str | None:
        """Exclude a version for good; if it is the champion, an older version that may be champion replaces it.

        Returns:
            The number of the champion, or None.

        Raises:
            RegistryError: neither MLflow nor the ledger knows the version.
            BusyError: another process is changing the registry.
        """
        with hold_registry(self, self.ledger, f"veto {version}") as steps:
            history = steps.history
            current = self.number_of(CHAMPION)
            if not version.isdecimal():
                version = self.get(version).version
            if version != history.champion and version not in {item.version for item in self.versions()}:
                raise RegistryError(f"{self.name} has no version {version!r}; `potstill status` shows those there are")
            was_champion = version in (history.champion, current)
            restored = steps.fallback(version) if was_champion else None
            intent = steps.announce(
                "veto", version=version, reason=clean_reason(reason), restored=restored, was_champion=was_champion
            )
            steps.finish(intent)
            return self.number_of(CHAMPION)

    def freeze(self, reason: str) -> None:
        """Stop automatic promotion until `unfreeze`, by a person's decision."""
        with hold_registry(self, self.ledger, "freeze") as steps:
            steps.record("freeze", reason=clean_reason(reason))

    def unfreeze(self, reason: str) -> bool:
        """Allow automatic promotion again; return whether it was frozen."""
        with hold_registry(self, self.ledger, "unfreeze") as steps:
            if steps.history.frozen is None:
                return False
            steps.record("unfreeze", reason=clean_reason(reason))
            return True

    def remove(self, versions: Iterable[str], reason: str) -> list[str]:
        """Remove versions with their artifacts for good, and return those that were removed.

        A version that has got an alias meanwhile stays. Of one that was deleted by hand, the ledger notes that it is
        gone; one that another process has removed meanwhile is left out.

        Args:
            versions: their numbers.
            reason: reason for the ledger.

        Raises:
            BusyError: another process is changing the registry.
        """
        removed = []
        with hold_registry(self, self.ledger, "remove versions") as steps:
            existing = {version.version: version for version in self.versions()}
            for number in versions:
                if number in self.aliases().values() or number in (steps.history.champion, *steps.history.removed):
                    continue
                model = _model_id(existing[number]) if number in existing else None
                steps.finish(steps.announce("remove", version=number, model=model, reason=clean_reason(reason)))
                removed.append(number)
        return removed

    def reconcile(self) -> list[str]:
        """Finish or undo interrupted steps and return a sentence for each; a run calls it at its start."""
        if not self.history().open:
            return []
        with hold_registry(self, self.ledger, "reconcile") as steps:
            return steps.settled

    # --- parts of decisions ---

    def _log_model(
        self,
        folders: Iterable[Path | None],
        experiment: str,
        run_id: str,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
    ) -> LoggedModel:
        """Upload a candidate's files, params and numbers as a logged model."""
        from mlflow.entities import Metric

        logged = self._client.create_logged_model(
            experiment, name=self.name, source_run_id=run_id, params=dict(params) or None
        )
        for folder in filter(None, folders):
            self._client.log_model_artifacts(logged.model_id, str(folder))
        now = round(1000 * time.time())
        numbers = [
            Metric(name, value, now, 0, model_id=logged.model_id, run_id=run_id) for name, value in metrics.items()
        ]
        if numbers:
            self._client.log_batch(run_id, metrics=numbers)
        self._client.finalize_logged_model(logged.model_id, "READY")
        return logged

    def _register_again(
        self,
        registered: Version,
        extras: Path | None,
        seal: str | None,
        tags: dict[str, str],
        evidence: Path | None,
        description: str,
    ) -> Version:
        """Give a registered candidate new evidence, and the new Bento if it is a different one."""
        history = self.history()
        refuse_vetoed(registered, self.name, history)
        facts = history.registered.get(registered.version, {})
        if facts.get("seal") and facts["bento"] == tags.get(BENTO):
            seal = facts["seal"]
        elif extras is not None:
            self._client.log_model_artifacts(_model_id(registered), str(extras))
        if evidence is not None:
            self._client.log_model_artifacts(_model_id(registered), str(evidence))
        with hold_registry(self, self.ledger, f"register {registered.version}") as steps:
            refuse_vetoed(registered, self.name, steps.history)
            judged = judged_facts({**registered.tags, **tags})
            new_facts = {"run_id": registered.run_id, "seal": seal, **judged}
            if {**facts, **new_facts} != facts or judged_facts(registered.tags) != judged:
                intent = steps.announce("register", **new_facts)
                steps.tag(registered.version, tags)
                steps.write(self._client.update_model_version, self.name, registered.version, description)
                steps.finish(intent)
            return steps.set_challenger(registered.version)

    def _of_candidate(self, candidate: str) -> Version:
        version = self.by_candidate(candidate)
        if version is None:
            raise RegistryError(f"the version of {self.name} that was registered just now is gone; run again")
        return version

    def _expect(self, version: str, expected: str | None, *, own_is_fine: bool = False) -> None:
        """Raise RegistryError if the champion is neither the expected one nor, if that is fine, the version itself."""
        current = self.number_of(CHAMPION)
        if current != expected and not (own_is_fine and current == version):
            raise RegistryError(
                f"the champion of {self.name} is version {current or 'none'} now, not {expected or 'none'} as when the "
                f"decision about version {version} was made; look again (`potstill review {version}`, or run again)"
            )

    def _refuse_held_back(self, version: Version, history: History) -> None:
        held_back = self._held_back(version.candidate, history)
        if held_back is not None:
            raise ApprovalPendingError(held_back)
        if history.frozen is not None:
            raise ApprovalPendingError(
                f"version {version.version} of {self.name} passed its gates and waits as {CHALLENGER}: promotion is "
                f"frozen {_by(history.frozen)}; `potstill approve {version.version}` makes it the {CHAMPION}, "
                "`potstill unfreeze` lets the next run do it"
            )

    def _held_back(self, candidate: str, history: History) -> str | None:
        line = history.rolled_back.get(candidate)
        if line is None:
            return None
        number = history.version_of(candidate)
        return (
            f"version {number} of {self.name} was rolled back {_by(line)} and stays back; "
            f"`potstill approve {number}` makes it the {CHAMPION} again"
        )

    def _rollback_target(self, version: str | None, history: History) -> str:
        if version is not None:
            return self.get(version).version
        former = [number for number in history.champions if number != history.champion]
        if not former:
            raise RegistryError(f"{self.name} has no version that was champion before; name one")
        return former[-1]

    def _registered(self, version: Version) -> dict[str, Any]:
        facts = self.history().registered.get(version.version)
        if facts is None:
            raise RegistryError(
                f"version {version.version} of {self.name} is not in the registry's ledger; `potstill run` judges, "
                "packages and registers a candidate"
            )
        return facts


def _by(line: Line) -> str:
    """Describe author, date and reason of a line, as part of a sentence."""
    return f"by {line.by} on {line.time[:10]} ({line.facts['reason']})"


def _model_id(version: Version) -> str:
    """Return the id of a version's logged model, from its tag or, for an old version without the tag, its source."""
    model_id = version.tags.get(MODEL_ID) or next(iter(re.findall(r"/models/(m-[^/]+)", version.source)), None)
    if model_id is None:
        raise RegistryError(
            f"version {version.version} has no logged model to add its Bento to; delete it and run again"
        )
    return model_id
