"""`potstill status` and `potstill accept`: show a workspace's state, and accept its data as normal."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from flows.engine.dvc_graph import Graph
from flows.json_output import print_json
from potstill.artifacts import read_json, write_json
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.paths import ACCEPTED_PROFILE, PARAMS, REPORT, VALIDATION, VERDICT

ALIASES = ("champion", "challenger", "previous")


def show(workspace: Path, *, as_json: bool) -> None:
    """Print a workspace's stages, versions, verdict, Bento and report."""
    facts = collect(workspace)
    if as_json:
        print_json(facts)
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
    """Return the facts that `potstill status` shows, as plain values."""
    params = load_params(workspace / PARAMS)
    # Loading DVC and MLflow takes most of the time, so MLflow loads in a process of its own at the same time.
    with ProcessPoolExecutor(max_workers=1) as pool:
        registry_state = pool.submit(_versions, workspace, params)
        graph = Graph(workspace, params)
        stale = set(graph.stale())
        versions, frozen = registry_state.result()
    verdict = read_json(workspace / VERDICT) if (workspace / VERDICT).exists() else None
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
    """Return the version of each alias, and the sentence of the ledger that froze promotion, if it is frozen."""
    from potstill.registry import tracking

    if not tracking.has_store(workspace):
        return dict.fromkeys(ALIASES), None
    from potstill.registry.promotion import Registry
    from potstill.registry.versions import version_facts

    registry = Registry(workspace, params.project.name)
    frozen = registry.history().frozen
    return {alias: version_facts(registry.by_alias(alias)) for alias in ALIASES}, frozen.sentence if frozen else None


def accept_data(workspace: Path) -> str:
    """Accept the profile of the data that was validated last, for later data to be compared with.

    Raises:
        ChecksumError: data/validation is missing or altered.
    """
    from potstill.data.validation.profiles import accept_profile

    write_json(workspace / ACCEPTED_PROFILE, accept_profile(workspace / VALIDATION))
    return f"the profile of {VALIDATION} is the accepted one now ({ACCEPTED_PROFILE}); commit it"
