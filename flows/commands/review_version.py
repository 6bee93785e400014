"""`potstill review`: the evidence about a version, read from what was kept with it in the registry."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import Any

from flows.engine.champions import no_champion, open_registry
from flows.json_output import print_json
from potstill.config.params_file import load_params
from potstill.errors import PotstillError
from potstill.paths import PARAMS, REPORT
from potstill.registry.promotion import Registry
from potstill.registry.versions import AGAINST, CHALLENGER, CHAMPION, GATE, PREVIOUS, Version, version_facts


def show(workspace: Path, version: str | None, *, as_json: bool, open_report: bool) -> None:
    """Print a version's verdict, its differences to the champion, what got worse, and where its report is.

    Args:
        workspace: the current folder.
        version: number or alias; None for the challenger or, without one, the champion.
        as_json: whether to print JSON.
        open_report: whether to open the report in a browser.

    Raises:
        RegistryError: there is no such version, or the ledger was edited.
        ChecksumError: what was kept with the version was altered.
    """
    facts = collect(workspace, version)
    if as_json:
        print_json(facts)
    else:
        print("\n".join(_lines(facts)))
    if open_report and facts["report"] is not None:
        webbrowser.open(Path(facts["report"]).resolve().as_uri())


def collect(workspace: Path, version: str | None) -> dict[str, Any]:
    """Return the facts that `potstill review` shows, as plain values."""
    params = load_params(workspace / PARAMS)
    registry = open_registry(workspace, params, read_only=True)
    aliases = {alias: registry.by_alias(alias) for alias in (CHALLENGER, CHAMPION, PREVIOUS)}
    item = registry.get(version) if version else aliases[CHALLENGER] or aliases[CHAMPION]
    if item is None:
        raise no_champion(params)
    rival_alias = PREVIOUS if item == aliases[CHAMPION] else CHAMPION
    rival = aliases[rival_alias]
    lines = registry.finished_lines(item.version)
    evidence = registry.fetch_evidence(item)
    verdict = json.loads(item.tags.get(GATE) or "{}")
    report = evidence / REPORT.name if evidence else None
    return {
        "project": params.project.name,
        **(version_facts(item) or {}),
        "aliases": [alias for alias, holder in aliases.items() if holder == item],
        "verdict": verdict.get("sentence", "not judged"),
        "passed": verdict.get("passed") is True,
        "failed": [check["sentence"] for check in verdict.get("checks", []) if check.get("passed") is not True],
        "rival": {"alias": rival_alias, **(version_facts(rival) or {})} if rival else None,
        **_comparison(registry, item, rival, rival_alias),
        "report": str(report) if report and report.exists() else None,
        "card": str(evidence / "README.md") if evidence else None,
        "decisions": [line.to_json() for line in lines],
    }


def _comparison(registry: Registry, version: Version, rival: Version | None, alias: str) -> dict[str, Any]:
    """Compare a version with its rival; what prevents that becomes the basis, and is never raised."""
    if rival is None:
        reason = "no champion yet" if alias == CHAMPION else "no champion before it"
        return {"basis": f"{reason}, so there is nothing to compare with", "differences": [], "worse": []}
    try:
        rival_evidence = registry.fetch_evidence(rival)
    except PotstillError as error:
        return {"basis": f"the {alias} cannot be compared: {error}", "differences": [], "worse": []}
    evidence = registry.fetch_evidence(version)
    if evidence is None or rival_evidence is None:
        reason = "one of the two was registered by a Potstill that kept no evidence with versions"
        return {"basis": f"{reason}; its MLflow run has its numbers", "differences": [], "worse": []}
    from potstill.registry.version_comparison import compare_versions

    name = "the champion" if alias == CHAMPION else "the version before"
    is_judged_rival = version.tags.get(AGAINST) == rival.version
    return compare_versions(evidence, rival_evidence, rival=name, is_judged_rival=is_judged_rival).to_json()


def _lines(facts: dict[str, Any]) -> list[str]:
    alias = f" ({', '.join(facts['aliases'])})" if facts["aliases"] else ""
    rival = facts["rival"]
    against = f"{rival['alias']}, version {rival['version']}: " if rival else ""
    lines = [
        f"version {facts['version']} of {facts['project']}{alias}, Bento {facts['bento']}",
        f"verdict   {facts['verdict']}",
        f"against   {against}{facts['basis']}",
    ]
    lines += [f"          {item['sentence']}" for item in facts["differences"]]
    lines += [f"worse     {sentence}" for sentence in facts["worse"]]
    if facts["differences"] and not facts["worse"]:
        lines.append("worse     nothing beyond chance")
    lines += [f"decided   {_decision(line)}" for line in facts["decisions"] if line["action"] != "register"]
    lines.append(f"report    {facts['report'] or 'not with this version'}")
    if CHALLENGER in facts["aliases"]:
        number = facts["version"]
        champion = rival["version"] if rival else "none"
        lines.append(f"decide    potstill promote {number} --reason TEXT --expect-champion {champion}")
        lines.append(f"          potstill veto {number} --reason TEXT")
    return lines


def _decision(line: dict[str, Any]) -> str:
    reason = f" ({line['reason']})" if line["reason"] else ""
    return f"{line['action']} by {line['by']} at {line['time']}{reason}"
