"""control: what a user would have without a teacher.

The same layers of the *pretrained* base, a fresh head, and the gold labels, under a training plan of its own: as one
would fine-tune it, for as long as its dev score rises.
"""

from __future__ import annotations

import torch

from potstill.artifacts import whole_folder, write_manifest
from potstill.config import Control
from potstill.distillation.objective import Supervised
from potstill.models.loading import load_classifier, save_model
from potstill.training.loop import train
from tasks.learning import (
    dev_accuracy,
    open_split,
    prepare_setting,
    tokenizer_folder,
    tokens_info,
    training_result,
)
from tasks.stage import Result, Stage, main
from tasks.students import make_student


def run(stage: Stage) -> Result:
    """Make `data/control/`."""
    torch.manual_seed(stage.project.seed)
    base = load_classifier(stage.deps["base"], tokens_info(stage)["labels"])
    control = make_student(stage, base)
    dataset, dev = (open_split(stage, split, student=True) for split in ("train", "dev"))
    plan = stage.params(Control)
    setting = prepare_setting(stage, plan, control)
    with stage.work("training"):
        outcome = train(control, dataset, Supervised(), dev_accuracy(dev, setting), setting)
    with whole_folder(stage.outs["control"]) as folder:
        save_model(control.cpu(), folder, tokenizer_folder(stage, student=True))
        write_manifest(folder, {"dev_accuracy": outcome.score})
    return training_result(outcome, f"dev accuracy {outcome.score:.4f} after {plan.epochs} epochs of gold labels")


if __name__ == "__main__":
    main(run)
