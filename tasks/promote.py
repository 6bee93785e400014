"""promote: makes a registered candidate the champion, or leaves that to a person."""

from __future__ import annotations

from pathlib import Path

from potstill.config.params import Params
from potstill.errors import ApprovalPendingError
from potstill.progress import say
from potstill.registry.promotion import Registry
from potstill.registry.versions import CHALLENGER, CHAMPION, Version


def promote(params: Params, workspace: Path, version: str, *, expected: str | None) -> Version:
    """Promote a registered version by the policy of params.

    Args:
        params: the whole of params.yaml.
        workspace: the workspace.
        version: number of the registered version.
        expected: number of the champion that its gate compared it with; None if there was none.

    Raises:
        ApprovalPendingError: the policy is `person`, or a person froze promotion or took the version back.
        RegistryError: the champion has changed meanwhile, or the version may not become champion.
        ChecksumError: the version's bytes are not those it was registered with.
    """
    registry = Registry(workspace, params.project.name)
    champion = registry.by_alias(CHAMPION)
    if params.promote.policy == "person" and (champion is None or champion.version != version):
        raise ApprovalPendingError(
            f"version {version} of {params.project.name} passed its gates and waits as {CHALLENGER}; "
            f"`potstill review {version}` shows what decides, `potstill approve {version}` makes it the {CHAMPION}, "
            f"`potstill veto {version} --reason ...` refuses it"
        )
    promoted = registry.promote(version, expected=expected)
    line = registry.decision(version)
    problem = line.facts.get("champion_problem") if line else None
    if problem:
        say(f"promote: the champion before cannot be restored: {problem}")
    return promoted
