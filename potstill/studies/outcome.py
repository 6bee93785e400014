"""The outcome of a search as files: a page with the figure, the params of every point, the cheapest student."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from potstill.artifacts import write_json, write_text
from potstill.config.params import Params
from potstill.evaluation.pages import plots
from potstill.evaluation.pages.plots import Cost
from potstill.evaluation.pages.sheet import render
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.studies import pareto
from potstill.studies.pareto import Point
from potstill.studies.search_page import TEMPLATE
from potstill.studies.space import changes, settings
from potstill.studies.study import Trial, by_score

CHEAPEST = "cheapest"


@dataclass(frozen=True)
class SearchOutcome:
    """A finished search.

    Attributes:
        study: its name.
        rows: number of dev rows.
        trials: the finished trials, in order.
        points: the models that need no student, and the students, as they were measured.
    """

    study: str
    rows: int
    trials: list[Trial]
    points: list[Point]

    @property
    def front(self) -> list[Point]:
        """The points that no other dominates."""
        return pareto.front(self.points)

    @property
    def cheapest(self) -> Point | None:
        """The fastest student that passes the gates."""
        return pareto.cheapest(self.points)

    @property
    def instead(self) -> list[Point]:
        """The models without distillation that make the cheapest student needless."""
        return pareto.better_without_student(self.points)


def write_outcome(outcome: SearchOutcome, params: Params, folder: Path) -> None:
    """Write the outcome of a search to a folder.

    The files are `facts.json`, `index.html`, `pareto.svg` and `pareto.png`, and for the cheapest student its serving
    folder `cheapest/` and `cheapest.yaml` for `potstill run --params`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    front = {point.name for point in outcome.front}
    models = [
        Cost(point.name, point.kind, point.score, point.milliseconds, point.megabytes, point.name in front)
        for point in outcome.points
    ]
    figure = models, trial_dots(outcome), KINDS[params.prepare.task].scoring
    svg, png = plots.pareto(*figure)
    facts = _facts(outcome, params)
    write_json(folder / "facts.json", facts)
    write_text(folder / "pareto.svg", svg)
    (folder / "pareto.png").write_bytes(png)
    page = render(
        TEMPLATE,
        project=params.project.name,
        axis=KINDS[params.prepare.task].scoring.axis,
        facts=facts,
        figures=plots.pareto_panels(*figure),
        trials=[_trial(trial, params) for trial in by_score(outcome.trials)],
    )
    write_text(folder / "index.html", page)
    _write_cheapest(outcome, folder)


def _facts(outcome: SearchOutcome, params: Params) -> dict[str, Any]:
    """Return the content of facts.json."""
    front = {point.name for point in outcome.front}
    cheapest = outcome.cheapest
    return {
        "study": outcome.study,
        "score": KINDS[params.prepare.task].scoring.key,
        "judged_on": f"{params.search.folds} folds of train" if params.search.folds else "dev",
        "dev_rows": outcome.rows,
        "trials": [_trial(trial, params) for trial in outcome.trials],
        "points": [
            {
                "name": point.name, "kind": point.kind, "score": point.score, "milliseconds": point.milliseconds,
                "megabytes": point.megabytes, "on_the_front": point.name in front, "set": point.run_arguments,
                "gates": point.verdict.to_json() if point.verdict else None, "folder": point.folder,
                "numbers": point.numbers,
            }
            for point in outcome.points
        ],
        "cheapest": cheapest.name if cheapest else None,
        "instead": [point.name for point in outcome.instead],
    }  # fmt: skip


def _trial(trial: Trial, params: Params) -> dict[str, Any]:
    result = {"number": trial.number, "state": trial.state, "score": trial.score, "losses": trial.choice.losses}
    return result | changes(params.search, trial.choice) | {"set": settings(params.search, trial.choice)}


def trial_dots(outcome: SearchOutcome) -> list[tuple[float, float, float]]:
    """Return (milliseconds, megabytes, score) of each complete trial, at the cost of the student of its size."""
    points = [(point, point.choice) for point in outcome.points]
    costs = {len(choice.layers): (point.milliseconds, point.megabytes) for point, choice in points if choice}
    return [
        (*costs[len(trial.choice.layers)], float(trial.score))
        for trial in outcome.trials
        if trial.state == "complete" and trial.score is not None
    ]


def _write_cheapest(outcome: SearchOutcome, folder: Path) -> None:
    serving = folder / CHEAPEST
    sections = folder / f"{CHEAPEST}.yaml"
    shutil.rmtree(serving, ignore_errors=True)
    sections.unlink(missing_ok=True)
    cheapest = outcome.cheapest
    if cheapest is None or cheapest.folder is None:
        return
    shutil.copytree(cheapest.folder, serving)
    text = yaml.safe_dump(cheapest.sections, sort_keys=False)
    write_text(sections, f"# {cheapest.name}: potstill run --params {sections.as_posix()}\n{text}")
