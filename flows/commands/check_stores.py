"""`potstill doctor`'s last checks: whether MLflow, the ledger, BentoML, DVC and Prefect say the same of a workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flows.commands.finding import Finding
from potstill.causes import missing_from_machine
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import ChecksumError, ParamsError, PotstillError
from potstill.paths import DVC_LOCK, PARAMS, RUN_LOCK
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.registry.store_reader import reader
from potstill.registry.versions import CHALLENGER, CHAMPION, PREVIOUS

# Tags that a line names.
_SHOWN = 3


def check_stores(workspace: Path) -> Iterator[Finding]:
    """Run the checks; each yields what disagrees, or one finding that says that nothing does."""
    try:
        params = load_params(workspace / PARAMS)
    except ParamsError:
        return  # an earlier check has said so
    checks: dict[str, Callable[[Path, Params], Iterator[Finding]]] = {
        "versions": _versions, "bentos": _bentos, "cache": _cache, "prefect": _prefect,
    }  # fmt: skip
    for name, check in checks.items():
        try:
            yield from list(check(workspace, params)) or [Finding(name, True, "nothing disagrees")]
        except Exception as error:
            problem = error if isinstance(error, PotstillError) else missing_from_machine(error)
            if problem is None:
                raise
            yield Finding(name, False, str(problem))


def _versions(workspace: Path, params: Params) -> Iterator[Finding]:
    """Hold MLflow's versions and aliases against the ledger, and the names of artifacts against where they are."""
    from potstill.registry.agreement import disagreements
    from potstill.registry.artifact_locations import moved_from

    if not tracking.has_store(workspace):
        return
    for folder in moved_from(workspace):
        detail = f"MLflow's pages look for artifacts in {folder}, from where the workspace was moved"
        yield Finding("versions", True, detail, "the next run corrects that, or `potstill relocate`", noted=True)
    for item in disagreements(Registry(workspace, params.project.name, reader(workspace))):
        yield Finding("versions", item.harmless, item.problem, item.advice, noted=item.harmless)


def _bentos(workspace: Path, params: Params) -> Iterator[Finding]:
    """Hold BentoML's store against the ledger, and the Bentos that an alias names against their seals."""
    from potstill.serving.launch import bento_path
    from potstill.serving.release import bento_name, verify_seal

    if not tracking.has_store(workspace):
        return
    registry = Registry(workspace, params.project.name, reader(workspace))
    name = bento_name(params.project.name)
    stored = {f"{name}:{path.name}" for path in bento_path(f"{name}:x").parent.glob("*/")}
    registered = {line.facts.get("bento") for line in registry.ledger.lines()}
    if unnamed := sorted(stored - registered):
        tags = ", ".join(unnamed[:_SHOWN]) + ", ..." * (len(unnamed) > _SHOWN)
        detail = f"{len(unnamed)} in BentoML's store that no version of this registry names: {tags}"
        advice = "a Bento that failed its first run, or another workspace's; `bentoml delete TAG` removes it"
        yield Finding("bentos", True, detail, advice, noted=True)
    named = {version.bento for alias in (CHAMPION, CHALLENGER, PREVIOUS) if (version := registry.by_alias(alias))}
    for tag in stored & named:
        try:
            verify_seal(bento_path(tag))
        except ChecksumError as error:
            yield Finding("bentos", False, str(error), f"`potstill fetch {tag}` brings it from the registry again")


def _cache(workspace: Path, params: Params) -> Iterator[Finding]:
    """Hold dvc.lock against DVC's cache."""
    from flows.engine.dvc_graph import Graph

    if not (workspace / DVC_LOCK).exists():
        return
    for out in Graph(workspace, params).missing_outs():
        detail = f"{out} is in {DVC_LOCK} and not whole in DVC's cache"
        yield Finding("cache", False, detail, "`dvc pull` brings it from a remote, or `potstill run` makes it again")


def _prefect(workspace: Path, params: Params) -> Iterator[Finding]:
    """Hold the runs of a configured Prefect server against the process that last held the workspace."""
    from flows.engine.prefect_server import active_runs
    from potstill.compute.processes import last_holder
    from potstill.registry.process_identity import has_process

    runs = active_runs(workspace.resolve())
    holder = last_holder(workspace / RUN_LOCK)
    if not runs or (holder is not None and has_process(holder)):
        return
    for run in runs:
        detail = f"the run {run} is Running or Lost in Prefect, and no process holds this workspace: it was killed"
        yield Finding("prefect", True, detail, "the next run sets it to Crashed", noted=True)
