"""The Prefect flow: DVC's stages in DVC's order, then what depends on the registry's state.

Prefect says when and shows what happened; it caches nothing, keeps no result, and is handed names and ids only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.run import CURRENT, Run, open_run
from flows.server import crash_stale_runs
from potstill.errors import GateRefusedError
from potstill.progress import say
from potstill.registry.promotion import Version

Answer = TypeVar("Answer")
# After DVC's stages: they depend on the registry's state, not on files alone.
CANDIDATE_STEPS = ("gate", "package", "smoke", "register", "promote")


@flow(name="potstill", persist_result=False, validate_parameters=True)
def potstill(workspace: str | None = None) -> None:
    """One run of a workspace, from its data to the champion.

    Args:
        workspace: folder of dvc.yaml and params.yaml; the current one if it is not given.

    Raises:
        PotstillError: whatever stopped it; the message is one sentence.
    """
    if workspace is not None:
        os.chdir(workspace)
    with open_run(Path.cwd()) as run:
        crash_stale_runs(run.workspace, _own_id())
        for name in run.graph.order:
            _in_task(name, lambda name=name: run.stage(name))  # type: ignore[misc]
        candidate(run)


def candidate(run: Run) -> None:
    """Judge, package, try, register and promote what the stages made; nothing where that has been done."""
    registry = run.registry()
    for sentence in registry.reconcile():
        say(sentence)
    champion = registry.champion()
    held_back = run.held_back()
    if held_back is not None:
        say(held_back)
        return
    known = run.settled(champion)
    if known is None:
        known = _new_version(run, champion)
    else:
        for name in CANDIDATE_STEPS[:-1]:
            _in_task(name, lambda: CURRENT)
    _in_task("promote", lambda: _promote(run, known, champion))


def _new_version(run: Run, champion: Version | None) -> Version:
    from tasks.gate import gate
    from tasks.package import package
    from tasks.register import register
    from tasks.smoke import smoke

    place = run.workspace
    path = run.registry().fetch(champion.version) if champion else None
    with run.timed("gate"):
        verdict = _in_task("gate", lambda: gate(run.params, place, path))
    run.facts["potstill.verdict"] = verdict.sentence
    if not verdict.passed:
        kept = f"version {champion.version} stays the champion" if champion else "there is no champion yet"
        raise GateRefusedError(f"the candidate is {verdict.sentence}; {kept}")
    say(f"gate: {verdict.sentence}")
    with run.timed("package"):
        packaged = _in_task("package", lambda: package(run.params, place))
    with run.timed("smoke"):
        _in_task("smoke", lambda: smoke(run.params, place, packaged.tag))
    with run.timed("register"):
        parent = run.recorder.parent()
        version = _in_task("register", lambda: register(run.params, place, verdict, packaged, parent, champion))
    run.registered = True
    say(f"register: version {version.version} of {run.params.project.name}, Bento {version.bento}")
    return version


def _promote(run: Run, version: Version, champion: Version | None) -> str:
    from tasks.promote import promote

    if champion is not None and champion.version == version.version:
        return CURRENT
    with run.timed("promote"):
        promote(run.params, run.workspace, version.version, expected=champion.version if champion else None)
    say(f"promote: version {version.version} is champion")
    return version.version


def _in_task(name: str, function: Callable[[], Answer]) -> Answer:
    """Run a step as a Prefect task of that name, in this thread."""

    def step() -> Any:
        answer = function()
        return Completed(name="Current", message="nothing changed") if answer == CURRENT else answer

    made = task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(step)
    answer: Any = made()
    return answer  # type: ignore[no-any-return]


def _own_id() -> Any:
    from uuid import UUID

    return UUID(flow_run.id) if flow_run.id else None
