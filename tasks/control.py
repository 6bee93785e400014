"""control: what a user would have without a teacher.

The same layers of the *pretrained* base, a fresh head, and the gold labels for as many epochs as distillation and
fine-tuning have together, with the base's own dropout and every weight trained: fine-tuning as one would do it.
"""

from __future__ import annotations

import torch

from potstill.artifacts import whole_folder, write_manifest
from potstill.config import Control, Distill, Finetune
from potstill.distillation.objective import Supervised
from potstill.models.loading import load_classifier, save_model
from potstill.models.student import student_from_layers
from potstill.training.loop import train
from tasks.learning import (
    dev_accuracy,
    open_split,
    plan_of,
    prepare_setting,
    tokenizer_folder,
    tokens_info,
    training_result,
)
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Make `data/control/`."""
    distill = stage.params(Distill)
    torch.manual_seed(stage.project.seed)
    base = load_classifier(stage.deps["base"], tokens_info(stage)["labels"])
    control = student_from_layers(base, distill.layers)
    dataset = open_split(stage, "train")
    epochs = distill.epochs + stage.params(Finetune).epochs
    plan = plan_of(
        distill,
        epochs=epochs,
        learning_rate=stage.params(Control).learning_rate,
        dropout=None,
        freeze_embeddings=False,
    )
    setting = prepare_setting(stage, plan, control)
    with stage.work("training"):
        outcome = train(control, dataset, Supervised(), dev_accuracy(open_split(stage, "dev"), setting), setting)
    with whole_folder(stage.outs["control"]) as folder:
        save_model(control.cpu(), folder, tokenizer_folder(stage))
        write_manifest(folder, {"dev_accuracy": outcome.score})
    return training_result(outcome, f"dev accuracy {outcome.score:.4f} after {epochs} epochs of gold labels")


if __name__ == "__main__":
    main(run)
