"""`potstill search`: brings the stages before distillation up to date, searches, and prints the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.run_workspace import change_params_locked
from potstill.errors import GateRefusedError
from potstill.paths import SEARCH_REPORT
from potstill.progress import say

if TYPE_CHECKING:
    from rich.table import Table

    from potstill.evaluation.gates import Verdict
    from potstill.studies.outcome import SearchOutcome

# The stage that a trial runs; those before it are brought up to date.
TRIAL_STAGE = "distill"


def execute(workspace: Path, params_file: Path | None, settings: list[str], *, cheapest: bool) -> None:
    """Search in a workspace, the current folder.

    Args:
        workspace: that folder.
        params_file: a file whose top-level sections replace those of params.yaml.
        settings: `key=value` changes of params.yaml.
        cheapest: whether to name the cheapest student that passes the gates.

    Raises:
        GateRefusedError: `cheapest`, and no student passes.
        PotstillError: whatever stopped it.
    """
    change_params_locked(workspace, params_file, settings)
    from flows.engine.pipeline_run import open_run

    with open_run(workspace) as run:
        for name in run.graph.order[: run.graph.order.index(TRIAL_STAGE)]:
            run.stage(name)
        from tasks.search import search

        outcome = search(run.params)
    _report(outcome)
    if cheapest:
        _say_cheapest(outcome)


def _report(outcome: SearchOutcome) -> None:
    from rich.console import Console

    say("")
    Console().print(_table(outcome))
    say("")
    say(f"report    {SEARCH_REPORT / 'index.html'}")


def _table(outcome: SearchOutcome) -> Table:
    from potstill.evaluation.pages.table import new_table

    table = new_table(("", "dev, %", "ms", "MB", "texts/s", "gates"))
    front = {point.name for point in outcome.front}
    for point in outcome.points:
        table.add_row(
            point.name, f"{100 * point.score:.1f}", f"{point.milliseconds:.3g}", f"{point.megabytes:.1f}",
            f"{point.numbers['texts_per_second']:,.0f}", _gates_cell(point.verdict),
            style="bold" if point.name in front else None,
        )  # fmt: skip
    return table


def _gates_cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    return "passed" if verdict.passed else "refused"


def _say_cheapest(outcome: SearchOutcome) -> None:
    cheapest = outcome.cheapest
    if cheapest is None:
        failed = [f"{point.name}: {point.verdict.sentence}" for point in outcome.points if point.verdict is not None]
        raise GateRefusedError(f"no student passes the gates on dev: {'; '.join(failed)}")
    say(f"cheapest  {cheapest.name}, in {SEARCH_REPORT / 'cheapest'}")
    for point in outcome.instead:
        say(f"instead   {point.name} scores no less and is no slower and no larger: no student is needed")
    if cheapest.run_arguments:
        say(f"run       potstill run --params {SEARCH_REPORT / 'cheapest.yaml'}")
        say(f"or        potstill run {' '.join(cheapest.run_arguments)}")
