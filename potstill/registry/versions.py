"""The versions of a project's registered model in MLflow, and their tags."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.artifacts import MANIFEST, sha256_file
from potstill.errors import RegistryError
from potstill.registry.store_calls import suppress_answers
from potstill.registry.tracking import client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

# Digits of a number that is none of a version: databases do not take it for an integer.
_TOO_LONG = 10
# MLflow aliases are case-sensitive. Potstill reads and writes only these three.
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"

CANDIDATE = "potstill.candidate"
BENTO = "potstill.bento"
SETTLED = "potstill.settled"
AGAINST = "potstill.judged_against"
# The gates' verdict as JSON: the evidence that is checked again before a version becomes champion.
GATE = "potstill.gate"
VETO = "potstill.veto"
PARAMS = "potstill.params"
# Out -> DVC hash of dvc.lock, as JSON.
DATA = "potstill.data"
# The sha256 of the manifest of `version_artifacts.EVIDENCE_FOLDER`.
EVIDENCE = "potstill.evidence"
# The sha256 that every answer of its Bento has in the header X-Lineage-Sum.
LINEAGE = "potstill.lineage"
# The logged model that holds the version's artifacts; MLflow's own field for it is empty on most stores.
MODEL_ID = "potstill.model_id"


@dataclass(frozen=True)
class Version:
    """One registered model version.

    Attributes:
        version: number of the version.
        run_id: the MLflow run that registered it.
        source: location of its artifacts.
        tags: MLflow's tags of it.
    """

    version: str
    run_id: str
    source: str
    tags: dict[str, str]

    @property
    def candidate(self) -> str:
        """The sha256 of its serving folder's manifest."""
        return self.tags.get(CANDIDATE, "")

    @property
    def bento(self) -> str | None:
        """The tag of its Bento."""
        return self.tags.get(BENTO)


def candidate_sum(serving: Path) -> str:
    """Compute the id of a candidate: the sha256 of its serving folder's manifest."""
    return sha256_file(serving / MANIFEST)


class Versions:
    """The versions of one registered model."""

    def __init__(self, workspace: Path, name: str, store: MlflowClient | None = None) -> None:
        self.workspace = workspace
        self.name = name
        self._client = client(workspace) if store is None else store

    def by_alias(self, alias: str) -> Version | None:
        """Find the version that an alias points at, or None."""
        with suppress_answers("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return _version(self._client.get_model_version_by_alias(self.name, alias))
        return None

    def number_of(self, alias: str) -> str | None:
        """Find the number of the version that an alias points at, or None."""
        version = self.by_alias(alias)
        return version.version if version else None

    def aliases(self) -> dict[str, str]:
        """Map each alias, those of deleted versions included, to the number of its version."""
        with suppress_answers("RESOURCE_DOES_NOT_EXIST"):
            return {
                alias: str(number) for alias, number in self._client.get_registered_model(self.name).aliases.items()
            }
        return {}

    def get(self, version: str) -> Version:
        """Find a version by its number, an alias, or the tag of its Bento.

        Raises:
            RegistryError: there is no such version.
        """
        match = None
        if ":" in version:
            match = next((item for item in self.versions() if item.bento == version), None)
        elif not version.isdecimal():
            match = self.by_alias(version)
        elif len(version) < _TOO_LONG:
            with suppress_answers("RESOURCE_DOES_NOT_EXIST"):
                match = _version(self._client.get_model_version(self.name, version))
        if match is None:
            raise RegistryError(f"{self.name} has no version {version!r}; `potstill status` shows those there are")
        return match

    def versions(self) -> list[Version]:
        """List all versions, newest first."""
        versions: list[Version] = []
        token: str | None = None
        while True:
            page = self._client.search_model_versions(f"name = '{self.name}'", page_token=token)
            versions += [_version(item) for item in page]
            token = page.token
            if not token:
                return sorted(versions, key=lambda item: -int(item.version))

    def by_candidate(self, candidate: str) -> Version | None:
        """Find the newest version of a candidate, or None."""
        return next((version for version in self.versions() if version.candidate == candidate), None)


def passed(evidence: str) -> bool:
    """Whether the JSON of a verdict says that the candidate and each of its checks passed; fail-closed."""
    try:
        verdict = json.loads(evidence)
        checks = [check["passed"] is True for check in verdict["checks"]]
        return verdict["passed"] is True and bool(checks) and all(checks)
    except (ValueError, TypeError, KeyError):
        return False


def version_facts(version: Version | None) -> dict[str, Any] | None:
    """Return a version in plain values, for `potstill status --json`."""
    if version is None:
        return None
    return {name: getattr(version, name) for name in ("version", "bento", "candidate", "run_id")}


def _version(item: ModelVersion) -> Version:
    return Version(str(item.version), str(item.run_id or ""), str(item.source), dict(item.tags))
