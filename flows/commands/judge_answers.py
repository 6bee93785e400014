"""`potstill drift` and `potstill feedback`: judge what the services of a workspace have written."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flows.engine.champions import find_champion
from flows.engine.notifications import notify
from potstill.artifacts import write_json, write_text
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import DriftError, ParamsError, RegistryError
from potstill.paths import DRIFT, DRIFT_PAGE, FEEDBACK, PARAMS
from potstill.progress import say
from potstill.serving.launch import SHADOW_FOLDER, WATCH_FOLDER

if TYPE_CHECKING:
    from rich.table import Table

    from potstill.evaluation.drift import Drift
    from potstill.inference.window_store import Store
    from potstill.registry.promotion import Registry


def drift(workspace: Path, location: str | None, *, retrain: bool) -> None:
    """Judge the newest windows of the champion's service, and write and log the verdict.

    Args:
        workspace: the current folder.
        location: where services write, a path or a URL; `watch.folder` when None.
        retrain: whether to run the pipeline if they drift.

    Raises:
        DriftError: they drift, and no run was asked for.
        PotstillError: they cannot be judged.
    """
    from potstill.evaluation.drift import judge, pool, read_windows
    from potstill.evaluation.pages.drift_page import render_drift

    start = time.time()
    params = load_params(workspace / PARAMS)
    store, candidate = _store(workspace, params, location)
    windows = read_windows(store, params.watch.judged_windows)
    if windows is None:
        raise _nothing_written(store, candidate)
    verdict = judge(windows, params.watch)
    write_json(workspace / DRIFT, asdict(verdict))
    write_text(workspace / DRIFT_PAGE, render_drift(params.project.name, verdict, windows.profile, pool(windows)))
    _log_drift(params, verdict, time.time() - start)
    _show(verdict)
    if verdict.verdict != "drift":
        return
    notify(workspace, "drift", verdict.sentence)
    if not retrain:
        raise DriftError(f"{verdict.sentence}; `potstill run` trains on what the sources hold now")
    from flows.commands.run_workspace import execute

    execute(workspace, None, [])


def feedback(workspace: Path, file: Path, location: str | None) -> None:
    """Measure how often the champion's service was right, with labels from a file.

    Args:
        workspace: the current folder.
        file: labels; see `potstill.evaluation.feedback.read_labels`.
        location: where services write, a path or a URL; `watch.folder` when None.

    Raises:
        DriftError: it is right less often than `watch.max_accuracy_drop` tolerates.
        PotstillError: labels or answers cannot be read, or no label belongs to an answer.
    """
    from potstill.evaluation.drift import stored_profile
    from potstill.evaluation.feedback import measure, read_answers, read_labels

    start = time.time()
    params = load_params(workspace / PARAMS)
    store, candidate = _store(workspace, params, location)
    profile = stored_profile(store)
    if profile is None:
        raise _nothing_written(store, candidate)
    measured = measure(read_labels(file, profile.task), read_answers(store), profile, params.watch)
    write_json(workspace / FEEDBACK, {**asdict(measured), "candidate": profile.candidate})
    metrics = {"value": measured.value, "low": measured.low, "high": measured.high, "matched": measured.matched}
    _log("feedback", params, {"measure": measured.measure}, metrics, time.time() - start)
    if measured.drifts:
        sentence = f"the model is right less often: {measured.sentence}"
        notify(workspace, "drift", sentence)
        raise DriftError(sentence)
    say(measured.sentence)


def _store(workspace: Path, params: Params, location: str | None) -> tuple[Store, str]:
    """Open the store that the champion's services write to; returns it with the champion's sha256."""
    from potstill.inference.window_store import candidate_location, open_store, workspace_location

    location = workspace_location(params.watch.folder, workspace) if location is None else location
    if location is None:
        raise ParamsError("watch.folder is null, so no service writes anywhere; set it, or name a folder with --folder")
    candidate = find_champion(workspace, params).candidate
    return open_store(candidate_location(location, candidate)), candidate


def watch_service(workspace: Path, params: Params) -> None:
    """Have the services that this process starts write to `watch.folder`, unless the environment says where already."""
    from potstill.inference.window_store import workspace_location

    location = workspace_location(params.watch.folder, workspace)
    if location is not None:
        os.environ.setdefault(WATCH_FOLDER, location)


def shadow_service(workspace: Path, params: Params) -> None:
    """Have the service that this process starts shadow the challenger, where there is one and `watch.shadow` asks.

    A value that the environment has already stays. A challenger that cannot be loaded is named and left out.
    """
    folder = challenger_folder(workspace, params)
    if folder is not None:
        os.environ.setdefault(SHADOW_FOLDER, str(folder))


def challenger_version(workspace: Path, params: Params) -> str | None:
    """Return the challenger's version; None where `watch.shadow` is 0 or there is no challenger."""
    from potstill.registry import tracking
    from potstill.registry.promotion import Registry
    from potstill.registry.versions import CHALLENGER

    if not params.watch.shadow or not tracking.has_store(workspace):
        return None
    return Registry(workspace, params.project.name).number_of(CHALLENGER)


def challenger_folder(workspace: Path, params: Params) -> Path | None:
    """Bring the challenger's serving folder here, verified.

    Returns:
        Its path; None where there is no challenger. Whatever is wrong with one is printed and never raised: a
        challenger must not keep the champion from starting.
    """
    from potstill.registry.promotion import Registry

    try:
        version = challenger_version(workspace, params)
        if version is None:
            return None
        registry = Registry(workspace, params.project.name)
        folder = registry.fetch(version).resolve()
        if params.sign.require:
            _verify_signature(registry, version, folder, params)
        return folder
    except Exception as error:
        say(f"serve: the challenger is left out: {' '.join(str(error).split())}")
        return None


def _verify_signature(registry: Registry, version: str, folder: Path, params: Params) -> None:
    """Verify the signature of a version's serving folder, which is kept with its evidence."""
    from potstill.registry.signatures import MODEL_SIGNATURE, verify_files

    evidence = registry.fetch_evidence(registry.get(version)) or folder.parent
    verify_files(folder, evidence / MODEL_SIGNATURE, params.sign, registry.workspace)


def _nothing_written(store: Store, candidate: str) -> RegistryError:
    return RegistryError(
        f"no service of the champion ({candidate[:12]}) has written to {store} yet; `potstill serve` writes there, "
        "any other service where POTSTILL_WATCH_FOLDER says"
    )


def _log_drift(params: Params, verdict: Drift, seconds: float) -> None:
    metrics = {"drift": float(verdict.verdict == "drift"), "texts": float(verdict.texts)}
    metrics |= {f"psi.{finding.feature}": finding.psi for finding in verdict.findings}
    metrics |= {f"ks.{finding.feature}": finding.ks for finding in verdict.findings if finding.ks is not None}
    if verdict.estimate is not None:
        metrics["estimated_accuracy"] = verdict.estimate.accuracy
    _log("drift", params, {"verdict": verdict.verdict, "candidate": verdict.candidate}, metrics, seconds)


def _log(name: str, params: Params, facts: dict[str, str], metrics: dict[str, float], seconds: float) -> None:
    from potstill.registry.tracking import log_stage

    watch = {f"watch.{key}": value for key, value in params.watch.model_dump(mode="json").items()}
    log_stage(
        project=params.project.name,
        stage=name,
        params=watch | facts,
        metrics={**metrics, "seconds": seconds},
    )


def _show(verdict: Drift) -> None:
    from rich.console import Console

    Console().print(_table(verdict))
    say("")
    if verdict.left_out:
        say(f"{verdict.left_out} of the newest windows count in the bins of another profile and are left out")
    for name in verdict.damaged:
        say(f"{name} is no window of counts and is left out; remove it")
    say(verdict.sentence)
    say(f"report    {DRIFT_PAGE}")


def _table(verdict: Drift) -> Table:
    from potstill.evaluation.pages.table import new_table

    table = new_table(("", "PSI", "by chance", "KS", "by chance", ""))
    for finding in verdict.findings:
        ks = ["", ""]
        if finding.ks is not None and finding.ks_by_chance is not None:
            ks = [f"{finding.ks:.3f}", f"{finding.ks_by_chance:.3f}"]
        mark = "drifts" if finding.drifts else ""
        table.add_row(finding.feature, f"{finding.psi:.3f}", f"{finding.psi_by_chance:.3f}", *ks, mark)
    return table
