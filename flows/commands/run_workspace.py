"""`potstill run`: changes params.yaml if asked, runs the flow, and prints the outcome."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.engine.prefect_server import open_api, quiet_console, wait_ready
from potstill.artifacts import read_json
from potstill.errors import BusyError, PotstillError
from potstill.paths import METRICS, PARAMS, REPORT, RUN_LOCK, VERDICT
from potstill.progress import say

if TYPE_CHECKING:
    from flows.engine.pipeline_run import Run


def execute(workspace: Path, params_file: Path | None, settings: list[str]) -> None:
    """Run a workspace.

    Args:
        workspace: the current folder.
        params_file: a file whose top-level sections replace those of params.yaml.
        settings: `key=value` changes of params.yaml.

    Raises:
        PotstillError: whatever stopped it.
    """
    started = _process_start()
    change_params_locked(workspace, params_file, settings)
    quiet_console()
    from flows.engine.pipeline_run import open_run

    with open_run(workspace) as run:
        decision = None
        if run.is_current():
            # Prefect is not started: that would take most of such a run's time.
            for name in run.graph.order:
                say(f"{name}: current")
        else:
            decision = _flow()
        _report(run, time.time() - started)
        if decision is not None:
            raise decision


def change_params_locked(workspace: Path, params_file: Path | None, settings: list[str]) -> None:
    """Change params.yaml under the run lock, and print each change; see `change_params`."""
    if params_file is None and not settings:
        return
    from flows.commands.params_changes import change_params
    from potstill.compute.processes import hold

    with hold(workspace / RUN_LOCK, what="a run"):
        for sentence in change_params(workspace / PARAMS, params_file, settings):
            say(sentence)


def _flow() -> PotstillError | None:
    """Run the flow; returns the decision about the candidate that ended it, which is reported like any outcome."""
    from flows.engine.stage_process import load_ahead

    load_ahead()
    with open_api() as server:
        from flows.engine.prefect_flow import potstill

        wait_ready(server)
        decision: PotstillError | None = potstill()  # type: ignore[assignment]  # a returned state's data
    if isinstance(decision, BusyError):  # nothing was decided
        raise decision
    return decision


def _process_start() -> float:
    import psutil

    return float(psutil.Process().create_time())


# --- the end of a run -------------------------------------------------------------------------------------------------


def _report(run: Run, seconds: float) -> None:
    from rich.console import Console

    from potstill.evaluation.pages.table import render_table
    from potstill.registry.versions import CHAMPION

    metrics = _read(run.workspace / METRICS)
    if metrics:
        say("")
        Console().print(render_table(metrics))
    say("")
    gate = _read(run.workspace / VERDICT)
    champion = run.registry().by_alias(CHAMPION)
    lines = {
        "gate": gate.get("sentence") if gate else None,
        "champion": f"version {champion.version} of {run.params.project.name}" if champion else "none",
        "Bento": champion.bento if champion else None,
        "serve": "potstill serve" if champion else None,
        "report": REPORT.as_posix() if (run.workspace / REPORT).exists() else None,
    }
    for name, line in lines.items():
        if line:
            say(f"{name:<9} {line}")
    _say_times(run, seconds)


def _say_times(run: Run, seconds: float) -> None:
    work = sum(times.work for times in run.times.values())
    for name, times in run.times.items():
        work_words = f", of which {times.work:.1f} s training or inference" if times.work else ""
        say(f"  {name:<10} {times.wall:6.1f} s{work_words}")
    say(f"time      {seconds:.1f} s, of which {work:.1f} s training or inference and {seconds - work:.1f} s all else")


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = read_json(path)
    except (OSError, json.JSONDecodeError):
        return {}
    return value
