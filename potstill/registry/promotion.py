"""Model versions and the aliases `challenger`, `champion` and `previous`.

MLflow keeps versions and aliases; what it does not do is done here: an alias is moved by compare-and-swap under a lock
and read back, a version's bytes are verified before anyone uses them (a version whose source is missing is READY, a
corrupt artifact downloads without a word), a champion deleted by hand is noticed (its alias vanishes silently), and a
step cut off by a crash is finished or undone at the next start.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.artifacts import MANIFEST, sha256_file, verify, whole_folder
from potstill.errors import ChecksumError, RegistryError
from potstill.registry.ledger import Intent, Ledger
from potstill.registry.tracking import ARTIFACTS, client, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

# MLflow tells `Champion` from `champion`; these three are the only ones anyone here reads or writes.
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"

CANDIDATE = "potstill.candidate"
BENTO = "potstill.bento"
SETTLED = "potstill.settled"
AGAINST = "potstill.judged_against"
# The whole verdict as JSON: the evidence that is checked again before anything becomes champion.
GATE = "potstill.gate"
VETO = "potstill.veto"


# Where the serving folder lies in a version's artifacts (MLflow's form of a model with a loader module and data).
SERVING = "data/serving"


@dataclass(frozen=True)
class Version:
    """One registered model version."""

    version: str
    run_id: str
    source: str
    tags: dict[str, str]

    @property
    def candidate(self) -> str:
        """sha256 of the manifest of its serving folder."""
        return self.tags.get(CANDIDATE, "")

    @property
    def bento(self) -> str | None:
        """The fixed tag of its Bento."""
        return self.tags.get(BENTO)


def candidate_sum(serving: Path) -> str:
    """What names a candidate: the sha256 of its serving folder's manifest."""
    return sha256_file(serving / MANIFEST)


class Registry:
    """The registered model of one project."""

    def __init__(self, workspace: Path, name: str) -> None:
        self.workspace = workspace
        self.name = name
        self.ledger = Ledger(workspace)
        self._client = client(workspace)

    # --- reading ---

    def by_alias(self, alias: str) -> Version | None:
        """The version an alias points at, None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def champion(self) -> Version | None:
        """The champion, None if none was ever promoted.

        Raises:
            RegistryError: the ledger promoted one, and alias and version are gone: someone deleted it by hand.
        """
        found, known = self.by_alias(CHAMPION), self.ledger.last_champion()
        if found is None and known is not None:
            raise RegistryError(
                f"the registry has no champion of {self.name}, though version {known} was promoted last: it was "
                "deleted or its alias was taken away by hand; `potstill approve VERSION` makes another version the "
                f"champion, `potstill veto {known} --reason ...` goes on without it"
            )
        return found

    def get(self, version: str) -> Version:
        """A version by its number or by an alias.

        Raises:
            RegistryError: there is no such version.
        """
        from mlflow.exceptions import MlflowException

        found = None
        if version.isdecimal():
            try:
                found = _version(self._client.get_model_version(self.name, version))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        else:
            found = self.by_alias(version)
        if found is None:
            raise RegistryError(f"{self.name} has no version {version!r}; `potstill status` shows those there are")
        return found

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        found = self._client.search_model_versions(f"name = '{self.name}'")
        return sorted((_version(item) for item in found), key=lambda item: -int(item.version))

    def by_candidate(self, candidate: str) -> Version | None:
        """The newest version of that candidate."""
        return next((version for version in self.versions() if version.candidate == candidate), None)

    def fetch(self, version: str) -> Path:
        """Bring a version's serving folder here, verified, and return it.

        Args:
            version: number or alias.

        Raises:
            RegistryError: no such version, or its artifacts are gone.
            ChecksumError: its bytes are not those it was registered with.
        """
        found = self.get(version)
        folder = self.workspace / ".work" / "registry" / f"{self.name}-{found.version}-{found.candidate[:12]}"
        if not _is_whole(folder, found.candidate):
            _download(found, folder, tracking_uri(self.workspace))
        return folder

    # --- writing ---

    def register(
        self,
        *,
        candidate: str,
        model: Path,
        experiment: str,
        run_id: str,
        tags: Mapping[str, str],
        description: str,
    ) -> Version:
        """Register a candidate as `challenger`; one that is registered already is only given the new tags.

        Args:
            candidate: from `candidate_sum`.
            model: a folder in MLflow's model format; the serving folder lies in it at `SERVING`.
            experiment: id of the experiment it belongs to.
            run_id: the run that made it.
            tags: evidence kept with the version.
            description: shown in MLflow's page.

        Raises:
            BusyError: another process is changing the registry.
        """
        with self.ledger.locked():
            known = self.by_candidate(candidate)
            if known is not None:
                refuse_vetoed(known, self.name)
                for key, value in tags.items():
                    self._client.set_model_version_tag(self.name, known.version, key, value)
                return self._challenge(known.version)
            intent = self.ledger.open("register", candidate=candidate, run_id=run_id)
            self._ensure_model()
            logged = self._client.create_logged_model(experiment, name=self.name, source_run_id=run_id)
            self._client.log_model_artifacts(logged.model_id, str(model))
            self._client.finalize_logged_model(logged.model_id, "READY")
            made = self._client.create_model_version(
                self.name,
                logged.artifact_location,
                run_id=run_id,
                tags={CANDIDATE: candidate, **tags},
                description=description,
                model_id=logged.model_id,
            )
            version = self._challenge(str(made.version))
            self.ledger.close(intent, "done", version=version.version)
            return version

    def promote(self, version: str, *, expected: str | None) -> Version:
        """Make a version the champion if the champion still is `expected`, and keep the old one as `previous`.

        Args:
            version: number of the version.
            expected: number of the champion the decision was made against; None for none.

        Raises:
            RegistryError: it was vetoed or did not pass its gates, the champion has changed meanwhile, or the alias
                does not read back.
            ChecksumError: its bytes are not those it was registered with.
            BusyError: another process is changing the registry.
        """
        with self.ledger.locked():
            self._check(version)
            current = self.by_alias(CHAMPION)
            if (current.version if current else None) != expected:
                raise RegistryError(
                    f"the champion of {self.name} is version {current.version if current else 'none'} now, not "
                    f"{expected or 'none'} as when version {version} was judged; run again"
                )
            if current is not None and current.version == version:
                return current
            intent = self.ledger.open("promote", version=version, expected=expected)
            return self._move(intent, version, expected)

    def veto(self, version: str, reason: str) -> str | None:
        """Forbid a version for good; if it is the champion, `previous` takes its place.

        Returns:
            The version that is champion now.

        Raises:
            RegistryError: no such version, and the ledger does not know it either.
        """
        with self.ledger.locked():
            known = {item.version for item in self.versions()}
            if version not in known and version != self.ledger.last_champion():
                raise RegistryError(f"{self.name} has no version {version!r}; `potstill status` shows those there are")
            current, previous = self.by_alias(CHAMPION), self.by_alias(PREVIOUS)
            restored = previous.version if previous and previous.version != version else None
            is_champion = self.ledger.last_champion() == version or (current is not None and current.version == version)
            intent = self.ledger.open(
                "veto", version=version, reason=reason, restored=restored if is_champion else None
            )
            self._veto(intent)
            now = self.by_alias(CHAMPION)
            return now.version if now else None

    def reconcile(self) -> list[str]:
        """Finish or undo what a crash cut off. Returns one sentence for each step; call it at the start of a run."""
        if not self.ledger.pending():
            return []
        done = []
        with self.ledger.locked():
            for intent in self.ledger.pending():
                finish = {"register": self._finish_register, "promote": self._finish_promote, "veto": self._veto}
                done.append(f"{intent.action} was cut off: {finish[intent.action](intent)}")
        return done

    # --- steps ---

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _challenge(self, version: str) -> Version:
        champion = self.by_alias(CHAMPION)
        if champion is None or champion.version != version:
            self._client.set_registered_model_alias(self.name, CHALLENGER, version)
        return self.get(version)

    def _check(self, version: str) -> None:
        """A version may become champion: judged and passed, not vetoed, its bytes whole."""
        found = self.get(version)
        refuse_vetoed(found, self.name)
        if not _passed(found.tags.get(GATE, "")):
            raise RegistryError(
                f"version {version} of {self.name} carries no passed gate, so it cannot become champion; "
                "`potstill run` judges and registers a candidate"
            )
        self.fetch(version)

    def _move(self, intent: Intent, version: str, expected: str | None) -> Version:
        if expected is not None:
            self._client.set_registered_model_alias(self.name, PREVIOUS, expected)
        self._client.set_registered_model_alias(self.name, CHAMPION, version)
        back = self.by_alias(CHAMPION)
        if back is None or back.version != version:
            raise RegistryError(
                f"alias {CHAMPION} of {self.name} reads back as {back.version if back else 'none'}, not {version}: "
                "someone else writes to this registry; run again"
            )
        challenger = self.by_alias(CHALLENGER)
        if challenger is not None and challenger.version == version:
            self._client.delete_registered_model_alias(self.name, CHALLENGER)
        self.ledger.close(intent, "done", version=version)
        return back

    def _finish_register(self, intent: Intent) -> str:
        found = self.by_candidate(intent.facts["candidate"])
        if found is None:
            self.ledger.close(intent, "undone", candidate=intent.facts["candidate"])
            return "no version was made, so there was nothing to undo"
        self._challenge(found.version)
        self.ledger.close(intent, "done", version=found.version)
        return f"finished, version {found.version} is registered"

    def _finish_promote(self, intent: Intent) -> str:
        version, expected = intent.facts["version"], intent.facts["expected"]
        current = self.by_alias(CHAMPION)
        try:
            if (current.version if current else None) not in {version, expected}:
                raise RegistryError("someone else has moved the champion meanwhile")
            self._check(version)
        except (RegistryError, ChecksumError) as error:
            if current is not None and current.version == version and expected is not None:
                self._client.set_registered_model_alias(self.name, CHAMPION, expected)
            elif current is not None and current.version == version:
                self._client.delete_registered_model_alias(self.name, CHAMPION)
            self.ledger.close(intent, "undone", version=version, reason=str(error))
            return f"undone, since {error}"
        self._move(intent, version, expected)
        return f"finished, version {version} is champion"

    def _veto(self, intent: Intent) -> str:
        version, restored = intent.facts["version"], intent.facts["restored"]
        if any(item.version == version for item in self.versions()):
            self._client.set_model_version_tag(self.name, version, VETO, intent.facts["reason"])
        current = self.by_alias(CHAMPION)
        if restored is not None:
            self._client.set_registered_model_alias(self.name, CHAMPION, restored)
        elif current is not None and current.version == version:
            self._client.delete_registered_model_alias(self.name, CHAMPION)
        for alias in (CHALLENGER, PREVIOUS):
            held = self.by_alias(alias)
            if held is not None and held.version in {version, restored}:
                self._client.delete_registered_model_alias(self.name, alias)
        self.ledger.close(intent, "done", **intent.facts)
        return f"finished, version {version} is vetoed"


def _version(item: ModelVersion) -> Version:
    return Version(str(item.version), str(item.run_id or ""), str(item.source), dict(item.tags))


def refuse_vetoed(version: Version, name: str) -> None:
    """Raises RegistryError where a person has vetoed the version."""
    if VETO in version.tags:
        raise RegistryError(f"version {version.version} of {name} was vetoed ({version.tags[VETO]}); it stays out")


def _passed(evidence: str) -> bool:
    """Fail-closed: only a verdict that says so, with checks that all do."""
    try:
        verdict = json.loads(evidence)
        checks = [check["passed"] is True for check in verdict["checks"]]
        return verdict["passed"] is True and bool(checks) and all(checks)
    except (ValueError, TypeError, KeyError):
        return False


def _is_whole(folder: Path, candidate: str) -> bool:
    try:
        verify(folder)
    except ChecksumError:
        return False
    return candidate_sum(folder) == candidate


def _download(version: Version, folder: Path, uri: str) -> None:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    source = f"{version.source.rstrip('/')}/{SERVING}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        try:
            found = Path(download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=uri))
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"the artifacts of version {version.version} at {version.source} are gone; restore {ARTIFACTS} from a "
                f"backup, or delete the version"
            ) from error
        verify(found)
        if candidate_sum(found) != version.candidate:
            raise ChecksumError(
                f"version {version.version} at {version.source} does not hold the bytes it was registered with; "
                "delete the version and run again"
            )
        with whole_folder(folder) as beside:
            shutil.copytree(found, beside, dirs_exist_ok=True)


def facts_of(version: Version | None) -> dict[str, Any] | None:
    """A version in plain values, for `potstill status --json`."""
    if version is None:
        return None
    return {
        "version": version.version,
        "bento": version.bento,
        "candidate": version.candidate,
        "run_id": version.run_id,
    }
