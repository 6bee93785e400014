"""The commands by which a person decides about the versions in a workspace's registry.

A decision takes the registry's lease and not the run lock, so that nobody waits for a training run to stop a promotion.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flows.engine.champions import open_registry
from flows.engine.notifications import notify
from flows.json_output import print_json
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.paths import PARAMS
from potstill.registry.promotion import Registry
from potstill.registry.versions import Version, version_facts

# `--expect-champion` where there is none yet.
NO_CHAMPION = "none"


def approve(workspace: Path, version: str, reason: str | None, expect_champion: str | None, *, as_json: bool) -> None:
    """Make a version that passed its gates the champion.

    Args:
        workspace: the current folder.
        version: number or alias.
        reason: reason for the ledger.
        expect_champion: number of the champion that the decision is about, or `none`; None: whichever it is.
        as_json: whether to print JSON.
    """
    params, registry = _open(workspace)
    if expect_champion is None:
        champion = registry.approve(version, reason)
    else:
        number = registry.get(version).version
        expected = None if expect_champion == NO_CHAMPION else expect_champion
        champion = registry.promote(number, expected=expected, person=True, reason=reason)
    _show(registry, champion.version, champion, _champion_sentence(params, champion), as_json=as_json)


def roll_back(workspace: Path, version: str | None, reason: str, *, as_json: bool) -> None:
    """Return to an older version, by default the previous champion."""
    params, registry = _open(workspace)
    champion = registry.roll_back(version, reason)
    _show(registry, champion.version, champion, _champion_sentence(params, champion), as_json=as_json)


def veto(workspace: Path, version: str, reason: str, *, as_json: bool) -> None:
    """Refuse a version for good."""
    params, registry = _open(workspace)
    champion = registry.veto(version, reason)
    champion_name = "none" if champion is None else f"version {champion}"
    sentence = f"version {version} of {params.project.name} is vetoed; champion: {champion_name}"
    _show(registry, version, registry.get(champion) if champion else None, sentence, as_json=as_json)


def _show(registry: Registry, version: str, champion: Version | None, sentence: str, *, as_json: bool) -> None:
    """Print a decision with what the ledger says of it, who decided, when and why; tell of a changed champion."""
    line = registry.decision(version)
    if line is not None and line.facts.get("was_champion", True):  # only a veto has this fact
        reason = f": {line.facts['reason']}" if line.facts.get("reason") else ""
        notify(registry.workspace, "promotion", f"{sentence}; {line.action} by {line.by}{reason}")
    problem = line.facts.get("champion_problem") if line else None
    if problem:
        print(f"potstill: the champion before cannot be restored: {problem}", file=sys.stderr)
    if not as_json:
        print(sentence)
        return
    facts = {"sentence": sentence, "champion": version_facts(champion), "decision": line.to_json() if line else None}
    print_json(facts)


def freeze(workspace: Path, reason: str) -> str:
    """Stop automatic promotion; returns the sentence to print."""
    params, registry = _open(workspace)
    registry.freeze(reason)
    return f"promotion of {params.project.name} is frozen; candidates that pass wait until `potstill unfreeze`"


def unfreeze(workspace: Path, reason: str) -> str:
    """Allow automatic promotion again; returns the sentence to print."""
    params, registry = _open(workspace)
    was_frozen = registry.unfreeze(reason)
    state = "is not frozen any more" if was_frozen else "was not frozen"
    return f"promotion of {params.project.name} {state}"


def history(workspace: Path, lines: int, *, as_json: bool) -> None:
    """Print the newest lines of the ledger, oldest first; all of it is verified.

    Raises:
        RegistryError: a line was taken away or edited.
    """
    params = load_params(workspace / PARAMS)
    newest = open_registry(workspace, params, read_only=True).ledger.lines()[-lines:]
    if as_json:
        print_json([line.to_json() for line in newest])
    else:
        print("\n".join(line.sentence for line in newest) or "the ledger has no lines yet")


def fetch(workspace: Path, version: str) -> str:
    """Bring a version's Bento here; returns the sentence to print."""
    from tasks import package

    params, _ = _open(workspace)
    packaged = package.fetch(params, workspace, version)
    return f"{packaged.tag} is in {packaged.path}; `potstill serve --tag {packaged.tag}` serves it"


def _open(workspace: Path) -> tuple[Params, Registry]:
    params = load_params(workspace / PARAMS)
    return params, open_registry(workspace, params)


def _champion_sentence(params: Params, champion: Version) -> str:
    return f"version {champion.version} of {params.project.name} is champion; `potstill serve` serves {champion.bento}"
