"""control: what a user would have without a teacher, and what copying its layers alone gives.

Both controls learn the gold labels under one training plan of their own: as one would fine-tune them, for as long as
their dev score rises. `control` starts from the same layers of the *pretrained* base with a fresh head, `initialised`
from those of the fine-tuned teacher, as the student does, but without the teacher's signals. Of a student that takes
nothing from its teacher's layers (another checkpoint, or weights at random) both start as it does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from potstill.artifacts import read_json, verify, whole_folder, write_json, write_manifest
from potstill.config.distill_params import Control
from potstill.distillation.objective.gold_labels import Supervised
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ChecksumError
from potstill.evaluation.naming import MODELS
from potstill.models.loading import load_classifier
from potstill.progress import say
from potstill.scores.calibration import calibrated
from potstill.training.loop import Outcome, train
from tasks.learning import (
    dev_score,
    open_split,
    prepare_setting,
    scoring_of,
    task_kind,
    tokens_info,
)
from tasks.stage import Result, Stage, main
from tasks.student_building import make_student, save_student

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(stage: Stage) -> Result:
    """Make `data/control/` and `data/initialised/`."""
    scoring = scoring_of(stage)
    found = {name: _trained(stage, name, start) for name, start in STARTS.items()}
    for name in STARTS:
        with whole_folder(stage.outs[name]) as folder:
            shutil.copytree(_finished(stage, name) / "model", folder, dirs_exist_ok=True)
            write_manifest(folder, {scoring.dev_key: found[name].score, "steps": {"control": found[name].steps}})
    plan, scores = stage.params(Control), {name: outcome.score for name, outcome in found.items()}
    summary = ", ".join(f"{MODELS[name].lower()} {score:.4f}" for name, score in scores.items())
    history = [(step, _named(name, key), value) for name in STARTS for step, key, value in found[name].history]
    return Result(
        f"dev {scoring.words} after {plan.epochs} epochs of gold labels: {summary}",
        {_named(name, scoring.dev_key): score for name, score in scores.items()},
        history,
    )


def _named(name: str, key: str) -> str:
    """What MLflow calls a number of a control."""
    return key if name == "control" else f"{name}_{key}"


def _pretrained(stage: Stage) -> PreTrainedModel:
    """The base's layers and a fresh head."""
    torch.manual_seed(stage.project.seed)
    return _made(stage, load_classifier(stage.deps["base"], tokens_info(stage)["labels"], task_kind(stage)))


def _initialised(stage: Stage) -> PreTrainedModel:
    """The student as distillation starts with it."""
    return _made(stage, load_classifier(stage.deps["teacher"]))


def _made(stage: Stage, parent: PreTrainedModel) -> PreTrainedModel:
    """A student of that parent; where it is pruned, by the gold labels."""
    return make_student(stage, parent, open_split(stage, "train", student=True), Supervised(task_kind(stage)))


# Out -> the model that training starts from.
STARTS: dict[str, Callable[[Stage], PreTrainedModel]] = {"control": _pretrained, "initialised": _initialised}


def _finished(stage: Stage, name: str) -> Path:
    """Where a control lies from its end to that of the stage, so that an interruption in the other leaves it."""
    return stage.checkpoints / f"{name}-finished"


def _trained(stage: Stage, name: str, start: Callable[[Stage], PreTrainedModel]) -> Outcome:
    """Train a control, unless an interrupted run of the stage has done so."""
    finished = _finished(stage, name)
    try:
        verify(finished)
        say(f"control: {MODELS[name].lower()} was finished before the interruption")
    except ChecksumError:
        say(f"control: {MODELS[name].lower()}")
        _train(stage, name, start(stage), finished)
    known = read_json(finished / "outcome.json")
    return Outcome(**known | {"history": [(step, key, value) for step, key, value in known["history"]]})


def _train(stage: Stage, name: str, model: PreTrainedModel, finished: Path) -> None:
    setting = prepare_setting(stage, stage.params(Control), model)
    setting = replace(setting, checkpoints=stage.checkpoints / name)
    rows, dev = (open_split(stage, split, student=True) for split in ("train", "dev"))
    with stage.work("training"):
        outcome = train(model, rows, Supervised(task_kind(stage)), dev_score(stage, dev, setting), setting)
    with stage.work("inference"):
        temperature = calibrated(task_kind(stage), predict_logits(model.cpu(), dev), dev.labels)
    with whole_folder(finished) as folder:
        save_student(stage, model, folder / "model")
        if temperature is not None:
            about = {"temperature": temperature, "fitted_on": "dev", "rows": len(dev)}
            write_json(folder / "model" / "calibration.json", about)
        write_json(folder / "outcome.json", asdict(outcome))
        write_manifest(folder)


if __name__ == "__main__":
    main(run, shared=True)
