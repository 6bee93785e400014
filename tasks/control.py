"""control: what a user would have without a teacher.

The same layers of the *pretrained* base, a fresh head, and the gold labels, under a training plan of its own: as one
would fine-tune it, for as long as its dev score rises.
"""

from __future__ import annotations

import torch

from potstill.artifacts import whole_folder, write_manifest
from potstill.config import Control, Distill
from potstill.distillation.objective import Supervised
from potstill.models.loading import load_classifier, save_model
from potstill.models.student import student_from_layers
from potstill.training.loop import train
from tasks.learning import (
    dev_score,
    open_split,
    prepare_setting,
    scoring_of,
    task_kind,
    tokenizer_folder,
    tokens_info,
    training_result,
)
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Make `data/control/`."""
    torch.manual_seed(stage.project.seed)
    task = task_kind(stage)
    base = load_classifier(stage.deps["base"], tokens_info(stage)["labels"], task)
    control = student_from_layers(base, stage.params(Distill).layers)
    dataset = open_split(stage, "train")
    plan = stage.params(Control)
    setting = prepare_setting(stage, plan, control)
    score = dev_score(stage, setting)
    scoring = scoring_of(stage)
    with stage.work("training"):
        outcome = train(control, dataset, Supervised(task), score, setting)
    with whole_folder(stage.outs["control"]) as folder:
        save_model(control.cpu(), folder, tokenizer_folder(stage))
        write_manifest(folder, {scoring.dev_key: outcome.score})
    return training_result(
        outcome, scoring, f"dev {scoring.words} {outcome.score:.4f} after {plan.epochs} epochs of gold labels"
    )


if __name__ == "__main__":
    main(run)
