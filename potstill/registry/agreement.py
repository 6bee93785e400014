"""What disagrees inside a registry: MLflow's versions and aliases, their artifacts, and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from potstill.registry.history import History
from potstill.registry.promotion import Registry
from potstill.registry.version_artifacts import lacking
from potstill.registry.versions import CHAMPION, PREVIOUS, Version


@dataclass(frozen=True)
class Disagreement:
    """Two records of a registry that say different things.

    Attributes:
        problem: what they say.
        advice: what to do.
        harmless: whether the next step of the registry settles it, or nothing depends on it.
    """

    problem: str
    advice: str
    harmless: bool = False


def disagreements(registry: Registry) -> Iterator[Disagreement]:
    """Hold versions, aliases, artifacts on this machine and the ledger against each other.

    The champion's alias is left to `Registry.champion`, and the bytes of files to `Registry.verify`.

    Raises:
        RegistryError: the ledger was edited.
        StoreError: MLflow's store cannot be read.
    """
    history = registry.history()
    versions = {version.version: version for version in registry.versions()}
    for line in history.open.values():
        problem = f"line {line.number} of the ledger began to {line.action} and was not closed"
        yield Disagreement(problem, "another process is at it, or the next run settles it", harmless=True)
    yield from _ledger_without_version(history, versions)
    for version in versions.values():
        yield from _version(version, history, registry)
    yield from _aliases(history, versions, registry)


def _ledger_without_version(history: History, versions: dict[str, Version]) -> Iterator[Disagreement]:
    going = {line.facts["version"] for line in history.open.values() if line.action == "remove"}
    for number in history.registered:
        if number not in versions and number not in history.removed | going:
            yield Disagreement(
                f"version {number} is registered in the ledger and gone from MLflow: it was deleted by hand",
                "restore it from a backup, or `potstill gc --yes` notes in the ledger that it is gone",
            )


def _version(version: Version, history: History, registry: Registry) -> Iterator[Disagreement]:
    number = version.version
    facts = history.registered.get(number)
    if facts is None:
        yield Disagreement(
            f"version {number} is in no line of the ledger: it was not made by a run, or its registration was undone",
            "it can never be champion; delete it on MLflow's page",
            harmless=True,
        )
        return
    missing = lacking(version, facts, registry.workspace)
    if missing is not None:
        yield Disagreement(
            f"version {number} has no {missing} in the registry, so it cannot be served or promoted",
            "restore the artifacts from a backup, or run again to have the candidate packaged and registered anew",
        )


def _aliases(history: History, versions: dict[str, Version], registry: Registry) -> Iterator[Disagreement]:
    for alias, number in registry.aliases().items():
        if number not in versions:
            yield Disagreement(
                f"alias {alias} points at version {number}, which is gone from MLflow",
                f"delete the alias on MLflow's page; `potstill approve VERSION` sets {CHAMPION}",
            )
    expected = history.former(versions)
    previous = registry.number_of(PREVIOUS)
    if previous != expected and not history.open:
        yield Disagreement(
            f"alias {PREVIOUS} points at {_named(previous)}, and the champion before was {_named(expected)}",
            "it was moved by hand; the next promotion sets it",
            harmless=True,
        )


def _named(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"
