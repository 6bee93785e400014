"""The Prefect flow: DVC's stages in DVC's order, then what depends on the registry's state.

Prefect schedules the flow and shows what happened. It caches nothing, keeps no result, and receives names and ids only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run, task_run
from prefect.states import Completed

from flows.engine.lost_runs import crash_silent_runs
from flows.engine.notifications import notify
from flows.engine.pipeline_run import CURRENT, Run, open_run
from flows.engine.prefect_artifacts import show_candidate, show_version
from flows.engine.prefect_server import crash_stale_runs
from flows.engine.prefect_states import log_sentences, state_of
from flows.engine.remotes import Remotes
from flows.engine.results_branch import KEY, push_results
from flows.engine.work_pools import placed_stages, run_on_pool
from potstill.artifacts import read_json
from potstill.errors import BusyError, GateRefusedError, PotstillError
from potstill.paths import VERDICT
from potstill.progress import say
from potstill.registry.versions import Version

if TYPE_CHECKING:
    from potstill.evaluation.gates import Verdict

Answer = TypeVar("Answer")
# The steps after DVC's stages: they depend on the registry's state and not on files alone.
CANDIDATE_STEPS = ("gate", "package", "smoke", "register", "promote")
# Seconds before each further try of a step that met a busy registry or a DVC command at work. Nothing else passes with
# time that has not been waited for already: the hub's client and the calls of MLflow's store try again themselves.
RETRY_SECONDS = [10.0, 30.0, 90.0]


@flow(name="potstill", persist_result=False, validate_parameters=True)
def potstill(workspace: str | None = None) -> State[PotstillError | None]:
    """Run a workspace once, from its data to the champion.

    Args:
        workspace: folder of dvc.yaml and params.yaml; by default the current one.

    Returns:
        The state that Prefect shows, see `prefect_states`. A caller receives its data: the decision that ended the run,
        or None.

    Raises:
        PotstillError: whatever stopped it; the message is one sentence.
    """
    log_sentences()
    if workspace is not None:
        os.chdir(workspace)
    if deployment.id:
        crash_silent_runs(deployment.id, flow_run.id)
    try:
        with open_run(Path.cwd()) as run:
            crash_stale_runs(run.workspace, UUID(flow_run.id) if flow_run.id else None)
            return _run(run)
    except PotstillError as error:
        return state_of(error)


def _run(run: Run) -> State[PotstillError | None]:
    if run.is_current():
        held_back = run.held_back()
        if held_back is not None:
            return Completed(name="HeldBack", message=held_back)
        return Completed(name="NothingNew", message=run.champion_sentence())
    results_branch = run.params.schedule.results_branch
    if results_branch is not None:
        Remotes(run.workspace, KEY).check()
    pool_of = placed_stages(run)
    for pool, names in groupby(run.graph.order, key=pool_of.get):
        _run_stages(run, pool, list(names))
    if results_branch is not None:
        in_task("push", lambda: run.transfer("push", push_results, run.workspace, results_branch))
    return candidate(run)


def _run_stages(run: Run, pool: str | None, names: list[str]) -> None:
    """Run stages here, or those that are not current on a pool."""
    handed = [] if pool is None else [name for name in run.graph.stale() if name in names]
    for name in names:
        if name not in handed:
            in_task(name, partial(run.stage, name))
    if pool is not None and handed:
        with run.timed(pool):
            in_task(pool, partial(run_on_pool, run, pool, handed))


def candidate(run: Run) -> State[PotstillError | None]:
    """Judge, package, smoke-test, register and promote the candidate; steps that are done already are skipped."""
    registry = run.registry()
    for sentence in registry.reconcile():
        say(sentence)
    champion = registry.champion()
    held_back = run.held_back()
    if held_back is not None:
        say(held_back)
        return Completed(name="HeldBack", message=held_back)
    version = run.settled(champion)
    if version is None:
        version = _new_version(run, champion)
    else:
        for name in CANDIDATE_STEPS[:-1]:
            in_task(name, lambda: CURRENT)
        show_candidate(run, read_json(run.workspace / VERDICT)["sentence"])
    show_version(run, version)
    in_task("promote", lambda: _promote(run, version, champion))
    return Completed(name="Completed", message=run.champion_sentence())


def _new_version(run: Run, champion: Version | None) -> Version:
    from tasks.package import package
    from tasks.register import register
    from tasks.smoke import smoke

    workspace = run.workspace
    with run.timed("gate"):
        verdict = in_task("gate", lambda: _judge(run, champion))
    say(f"gate: {verdict.sentence}")
    with run.timed("package"):
        packaged = in_task("package", lambda: run.step("package", package, run.params, workspace))
    with run.timed("smoke"):
        in_task("smoke", lambda: run.step("smoke", smoke, run.params, workspace, packaged.tag))
    with run.timed("register"):
        parent = run.recorder.parent()
        facts = (run.params, workspace, verdict, packaged, parent, champion)
        version = in_task("register", lambda: run.step("register", register, *facts))
    run.registered = True
    say(f"register: version {version.version} of {run.params.project.name}, Bento {version.bento}")
    return version


def _judge(run: Run, champion: Version | None) -> Verdict:
    from tasks.gate import judge_candidate

    verdict = run.step("gate", judge_candidate, run.params, run.workspace, champion)
    run.facts["potstill.verdict"] = verdict.sentence
    show_candidate(run, verdict.sentence)
    if not verdict.passed:
        consequence = f"version {champion.version} stays the champion" if champion else "there is no champion yet"
        raise GateRefusedError(f"the candidate is {verdict.sentence}; {consequence}")
    return verdict


def _promote(run: Run, version: Version, champion: Version | None) -> str:
    from tasks.promote import promote

    if champion is not None and champion.version == version.version:
        return CURRENT
    decide = partial(promote, expected=champion.version if champion else None)
    with run.timed("promote"):
        run.step("promote", decide, run.params, run.workspace, version.version)
    say(f"promote: version {version.version} is champion")
    notify(run.workspace, "promotion", run.champion_sentence())
    return version.version


def in_task(name: str, function: Callable[[], Answer]) -> Answer:
    """Run a step as a Prefect task of that name, in this thread; Potstill's own errors become its state.

    A step that meets something busy is tried again; see `RETRY_SECONDS`.
    """
    errors: list[PotstillError] = []
    options: dict[str, Any] = {"retries": len(RETRY_SECONDS), "retry_delay_seconds": RETRY_SECONDS}

    def step() -> Any:
        try:
            answer = function()
        except PotstillError as error:
            if isinstance(error, BusyError) and task_run.run_count <= len(RETRY_SECONDS):
                say(f"{name}: {error} (trying again)")
                raise
            errors.append(error)
            return state_of(error)
        return Completed(name="Current", message="nothing changed") if answer == CURRENT else answer

    options |= {"retry_condition_fn": _is_busy, "cache_policy": NO_CACHE, "persist_result": False}
    answer: Any = task(name=name, task_run_name=name, **options)(step)()
    if errors:
        raise errors[0]
    return answer  # type: ignore[no-any-return]


def _is_busy(task: object, run: object, state: State[Any]) -> bool:
    """Whether Prefect is to try a step again."""
    return isinstance(state.data, BusyError)
