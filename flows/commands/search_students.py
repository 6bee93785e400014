"""`potstill search`: bring all that distillation needs up to date, search, and say what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import GateRefusedError
from potstill.progress import say
from tasks.stage import RUN_LOCK

if TYPE_CHECKING:
    from rich.table import Table

    from potstill.studies.outcome import Found

# The stage that a trial is; those before it are brought up to date.
TRIED = "distill"
REPORT = Path("reports/search/index.html")


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
    if params_file is not None or settings:
        from flows.commands.params_changes import change_params
        from potstill.compute.processes import hold

        with hold(workspace / RUN_LOCK, what="a run"):
            for sentence in change_params(workspace / "params.yaml", params_file, settings):
                say(sentence)
    from flows.engine.pipeline_run import open_run

    with open_run(workspace) as run:
        for name in run.graph.order[: run.graph.order.index(TRIED)]:
            run.stage(name)
        from tasks.search import search

        found = search(run.params)
    _report(found)
    if cheapest:
        _say_cheapest(found)


def _report(found: Found) -> None:
    from rich.console import Console

    console = Console(soft_wrap=False)
    console.print()
    console.print(_table(found))
    say("")
    say(f"report    {REPORT}")


def _table(found: Found) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for title in ("", "dev, %", "ms", "MB", "texts/s", "gates"):
        table.add_column(title, justify="right" if title not in ("", "gates") else "left", overflow="fold")
    front = {point.name for point in found.front}
    for point in found.points:
        gates = "" if point.verdict is None else "passed" if point.verdict.passed else "refused"
        table.add_row(
            point.name, f"{100 * point.score:.1f}", f"{point.milliseconds:.3g}", f"{point.megabytes:.1f}",
            f"{point.numbers['texts_per_second']:,.0f}", gates, style="bold" if point.name in front else None,
        )  # fmt: skip
    return table


def _say_cheapest(found: Found) -> None:
    point = found.cheapest
    if point is None:
        failed = [f"{one.name}: {one.verdict.sentence}" for one in found.points if one.verdict is not None]
        raise GateRefusedError(f"no student passes the gates on dev: {'; '.join(failed)}")
    say(f"cheapest  {point.name}, in {REPORT.parent / 'cheapest'}")
    if point.made_by:
        say(f"run       potstill run --params {REPORT.parent / 'cheapest.yaml'}")
        say(f"or        potstill run {' '.join(point.made_by)}")
