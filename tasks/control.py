"""control: trains models without the teacher's signals, to show what distillation adds.

The controls learn the gold labels under the training plan `control` of params. `control` starts from the student's
layers of the *pretrained* base, with a new head. `initialised`, which params can leave out, starts from those of the
fine-tuned teacher, as the student does. If a student takes no layers from its teacher (another checkpoint, or random
weights), both start as it does.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from potstill.artifacts import is_whole, read_json, whole_folder, write_json, write_manifest
from potstill.config.distill_params import Control
from potstill.data.tokens.token_folder import TokenFolder
from potstill.distillation.objective.gold_labels import Supervised
from potstill.distillation.teachers.predict import predict_logits
from potstill.evaluation.naming import MODELS
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.progress import say
from potstill.training.curves import learning_curve
from potstill.training.dev_scores import dev_score
from potstill.training.loop import Outcome, train
from tasks.learning import CONTROLS, open_tokens, prepare_setting
from tasks.stage import Result, Stage, main
from tasks.student_building import save_student, student_builder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(stage: Stage) -> Result:
    """Write `data/control/` and `data/initialised/`."""
    tokens = open_tokens(stage)
    scoring = KINDS[tokens.task].scoring
    names = CONTROLS if stage.params(Control).initialised else CONTROLS[:1]
    outcomes = {name: _outcome(stage, tokens, name) for name in names}
    for name, outcome in outcomes.items():
        with whole_folder(stage.outs[name]) as folder:
            shutil.copytree(_finished_dir(stage, name) / "model", folder, dirs_exist_ok=True)
            training = {"steps": {"control": outcome.steps}, "curves": {name: learning_curve(outcome)}}
            write_manifest(folder, {scoring.dev_key: outcome.score, **training})
    for name in CONTROLS[len(names) :]:
        with whole_folder(stage.outs[name]) as folder:
            write_manifest(folder, {"trained": False})
    summary = ", ".join(f"{MODELS[name].lower()} {outcome.score:.4f}" for name, outcome in outcomes.items())
    return Result(
        f"dev {scoring.words} after {stage.params(Control).epochs} epochs of gold labels: {summary}",
        {_metric(name, scoring.dev_key): outcome.score for name, outcome in outcomes.items()},
        [(step, _metric(name, key), value) for name in outcomes for step, key, value in outcomes[name].history],
    )


def _metric(name: str, key: str) -> str:
    """Return the name of a control's number in MLflow."""
    return key if name == "control" else f"{name}_{key}"


def _parent(stage: Stage, tokens: TokenFolder, name: str) -> PreTrainedModel:
    """Load the model whose layers a control takes: the fine-tuned teacher, or the base with a fresh head."""
    if name == "initialised":
        return load_classifier(stage.deps["teacher"])
    torch.manual_seed(stage.project.seed)
    return load_classifier(stage.deps["base"], tokens.labels, tokens.task)


def _finished_dir(stage: Stage, name: str) -> Path:
    """Return the folder of a trained control until the stage ends, so that an interrupted stage does not repeat it."""
    return stage.checkpoints / f"{name}-finished"


def _outcome(stage: Stage, tokens: TokenFolder, name: str) -> Outcome:
    """Train a control, unless an interrupted run of the stage has done so."""
    finished = _finished_dir(stage, name)
    if is_whole(finished):
        say(f"control: {MODELS[name].lower()} was finished before the interruption")
    else:
        say(f"control: {MODELS[name].lower()}")
        _train(stage, tokens, name, finished)
    return Outcome.from_json(read_json(finished / "outcome.json"))


def _train(stage: Stage, tokens: TokenFolder, name: str, finished: Path) -> None:
    """Train a control on gold labels, from the same start as the student."""
    task, builder = tokens.task, student_builder(stage, tokens)
    rows, dev = tokens.student.split("train"), tokens.student.split("dev")
    model = builder.build(_parent(stage, tokens, name), builder.params.layers, rows, Supervised(task))
    setting = prepare_setting(stage, stage.params(Control), model)
    setting = replace(setting, checkpoints=stage.checkpoints / name)
    with stage.work("training"):
        outcome = train(model, rows, Supervised(task), dev_score(task, dev, setting), setting)
    with stage.work("inference"):
        temperature = KINDS[task].temperature(predict_logits(model.cpu(), dev), dev.labels)
    with whole_folder(finished) as folder:
        save_student(tokens, model, folder / "model")
        if temperature is not None:
            calibration = {"temperature": temperature, "fitted_on": "dev", "rows": len(dev)}
            write_json(folder / "model" / "calibration.json", calibration)
        write_json(folder / "outcome.json", asdict(outcome))
        write_manifest(folder)


if __name__ == "__main__":
    main(run, shared=True)
