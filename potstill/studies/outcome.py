"""What a search found, as files: a page with the picture, the params of every point, the cheapest student."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from potstill.artifacts import write_json, write_text
from potstill.config.params import Params
from potstill.evaluation.pages import plots
from potstill.evaluation.pages.plots import Cost
from potstill.evaluation.pages.sheet import render
from potstill.scores.scoring import SCORINGS
from potstill.studies import pareto
from potstill.studies.pareto import Point
from potstill.studies.search_page import TEMPLATE
from potstill.studies.space import changes, settings
from potstill.studies.study import Trial

PAGE, FACTS, CHEAPEST = "index.html", "facts.json", "cheapest"


@dataclass(frozen=True)
class Found:
    """A finished search.

    Attributes:
        study: its name.
        rows: of dev.
        trials: the finished ones, in order.
        points: the teacher and the students that were measured.
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


def write_outcome(found: Found, params: Params, folder: Path) -> None:
    """Write `facts.json`, `index.html`, `pareto.svg`, `pareto.png`, and of the cheapest student its serving folder
    `cheapest/` and `cheapest.yaml` for `potstill run --params`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    front = {point.name for point in found.front}
    models = [
        Cost(one.name, one.kind, one.score, one.milliseconds, one.megabytes, one.name in front) for one in found.points
    ]
    drawn = models, trial_dots(found), SCORINGS[params.prepare.task]
    svg, png = plots.pareto(*drawn)
    write_json(folder / FACTS, facts(found, params))
    write_text(folder / "pareto.svg", svg)
    (folder / "pareto.png").write_bytes(png)
    write_text(folder / PAGE, _page(found, params, plots.pareto_panels(*drawn)))
    _write_cheapest(found, folder)


def facts(found: Found, params: Params) -> dict[str, Any]:
    """The content of facts.json."""
    front, cheapest = {point.name for point in found.front}, found.cheapest
    return {
        "study": found.study,
        "score": SCORINGS[params.prepare.task].key,
        "judged_on": f"{params.search.folds} folds of train" if params.search.folds else "dev",
        "dev_rows": found.rows,
        "trials": [_trial(one, params) for one in found.trials],
        "points": [
            {
                "name": one.name, "kind": one.kind, "score": one.score, "milliseconds": one.milliseconds,
                "megabytes": one.megabytes, "on_the_front": one.name in front, "set": one.made_by,
                "gates": one.verdict.to_json() if one.verdict else None, "folder": one.folder,
                "numbers": one.numbers,
            }
            for one in found.points
        ],
        "cheapest": cheapest.name if cheapest else None,
    }  # fmt: skip


def _trial(trial: Trial, params: Params) -> dict[str, Any]:
    about = {"number": trial.number, "state": trial.state, "score": trial.score, "losses": trial.choice.losses}
    return about | changes(params.search, trial.choice) | {"set": settings(params.search, trial.choice)}


def trial_dots(found: Found) -> list[tuple[float, float, float]]:
    """(milliseconds, megabytes, score) of each complete trial, at the cost of the student of its size."""
    cost = {
        len(point.choice.layers): (point.milliseconds, point.megabytes)
        for point in found.points
        if point.choice is not None
    }
    complete = [one for one in found.trials if one.state == "complete" and one.score is not None]
    return [(*cost[len(one.choice.layers)], float(one.score or 0)) for one in complete]


def _write_cheapest(found: Found, folder: Path) -> None:
    place, sections, best = folder / CHEAPEST, folder / f"{CHEAPEST}.yaml", found.cheapest
    shutil.rmtree(place, ignore_errors=True)
    sections.unlink(missing_ok=True)
    if best is None or best.folder is None:
        return
    shutil.copytree(best.folder, place)
    text = yaml.safe_dump(best.sections, sort_keys=False)
    write_text(sections, f"# {best.name}: potstill run --params {sections.as_posix()}\n{text}")


def _page(found: Found, params: Params, figures: Sequence[str]) -> str:
    return render(
        TEMPLATE,
        project=params.project.name,
        axis=SCORINGS[params.prepare.task].axis,
        facts=facts(found, params),
        figures=figures,
        trials=_by_score(found.trials, params),
    )


def _by_score(trials: Sequence[Trial], params: Params) -> list[dict[str, Any]]:
    """Trials, the best first, those without a score last."""
    ordered = sorted(trials, key=lambda one: (one.state != "complete", -(one.score or 0.0)))
    return [_trial(one, params) for one in ordered]
