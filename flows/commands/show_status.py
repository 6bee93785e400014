"""`potstill status` and `potstill accept`."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from flows.engine.dvc_graph import Graph
from potstill.artifacts import read_json, write_json
from potstill.config.params import Params
from potstill.config.params_file import load_params

REPORT = Path("reports/report.html")
GATE = Path("reports/gate.json")
ALIASES = ("champion", "challenger", "previous")


def show(workspace: Path, *, as_json: bool) -> None:
    """Print what a workspace has: stages, versions, verdict, Bento, report."""
    facts = collect(workspace)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    print(facts["project"])
    for stage, state in facts["stages"].items():
        print(f"  {stage:<10} {state}")
    for alias in ALIASES:
        version = facts["versions"][alias]
        print(f"{alias:<11} {'version ' + version['version'] + ', Bento ' + version['bento'] if version else 'none'}")
    if facts["frozen"]:
        print(f"{'frozen':<11} {facts['frozen']}")
    print(f"{'gate':<11} {facts['gate'] or 'not judged yet'}")
    print(f"{'report':<11} {facts['report'] or 'none yet'}")


def collect(workspace: Path) -> dict[str, Any]:
    """The facts as plain values."""
    params = load_params(workspace / "params.yaml")
    # Most of the time goes into loading DVC and MLflow, so each loads in a process of its own.
    with ProcessPoolExecutor(max_workers=1) as registry:
        reading = registry.submit(_versions, workspace, params)
        graph = Graph(workspace, params)
        stale = set(graph.stale())
        versions, frozen = reading.result()
    verdict = read_json(workspace / GATE) if (workspace / GATE).exists() else None
    return {
        "project": params.project.name,
        "stages": {name: "stale" if name in stale else "current" for name in graph.order},
        "versions": versions,
        "frozen": frozen,
        "bento": versions["champion"]["bento"] if versions["champion"] else None,
        "gate": verdict["sentence"] if verdict else None,
        "report": str(REPORT) if (workspace / REPORT).exists() else None,
    }


def _versions(workspace: Path, params: Params) -> tuple[dict[str, dict[str, Any] | None], str | None]:
    """The version of each alias, and the line of the ledger that froze promotion, if it is frozen."""
    from potstill.registry import tracking

    if not tracking.has_store(workspace):
        return dict.fromkeys(ALIASES), None
    from potstill.registry.promotion import Registry
    from potstill.registry.versions import version_facts

    registry = Registry(workspace, params.project.name)
    frozen = registry.history().frozen
    return {alias: version_facts(registry.by_alias(alias)) for alias in ALIASES}, frozen.sentence if frozen else None


def accept_data(workspace: Path) -> str:
    """Take the profile of the data that was validated last as the accepted one.

    Raises:
        ChecksumError: data/validation is missing or altered.
    """
    from potstill.data.validation.profiles import accept_profile

    write_json(workspace / "data" / "accepted.json", accept_profile(workspace / "data" / "validation"))
    return "the profile of data/validation is the accepted one now (data/accepted.json); commit it"
