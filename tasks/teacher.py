"""teacher: fine-tune the base on gold labels, or verify one that is fine-tuned; scale its temperature on dev."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from potstill.artifacts import whole_folder, write_json, write_manifest
from potstill.config import Teacher
from potstill.data.batches import TokenDataset
from potstill.distillation.objective import Supervised
from potstill.evaluation.calibration import fit_temperature
from potstill.models.loading import check_labels, load_classifier, reorder_labels, save_model
from potstill.training.loop import Outcome, Setting, train
from potstill.training.predict import accuracy, predict_logits
from tasks.learning import (
    dev_accuracy,
    open_split,
    prepare_setting,
    tokenizer_folder,
    tokens_info,
    training_result,
)
from tasks.stage import Result, Stage, main

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(stage: Stage) -> Result:
    """Make `data/teacher/`."""
    teacher = stage.params(Teacher)
    dev = open_split(stage, "dev")
    model, outcome = _verified(stage, dev) if teacher.fine_tuned else _fine_tuned(stage, teacher, dev)
    with stage.work("inference"):
        logits = predict_logits(model, dev)
    temperature = fit_temperature(logits, dev.labels)
    with whole_folder(stage.outs["teacher"]) as folder:
        save_model(model.cpu(), folder, tokenizer_folder(stage))
        write_json(folder / "calibration.json", {"temperature": temperature, "fitted_on": "dev", "rows": len(dev)})
        write_manifest(folder, {"dev_accuracy": outcome.score})
    summary = f"dev accuracy {outcome.score:.4f}, temperature {temperature:.2f}"
    return training_result(outcome, summary, {"temperature": temperature})


def _fine_tuned(stage: Stage, teacher: Teacher, dev: TokenDataset) -> tuple[PreTrainedModel, Outcome]:
    torch.manual_seed(stage.project.seed)
    model = load_classifier(stage.deps["base"], tokens_info(stage)["labels"])
    setting: Setting = prepare_setting(stage, teacher, model)
    with stage.work("training"):
        outcome = train(model, open_split(stage, "train"), Supervised(), dev_accuracy(dev, setting), setting)
    return model, outcome


def _verified(stage: Stage, dev: TokenDataset) -> tuple[PreTrainedModel, Outcome]:
    labels = tokens_info(stage)["labels"]
    order = check_labels(stage.deps["base"], labels)
    model = load_classifier(stage.deps["base"])
    reorder_labels(model, order, labels)
    with stage.work("inference"):
        return model, Outcome(score=accuracy(predict_logits(model, dev), dev.labels))


if __name__ == "__main__":
    main(run, shared=True)
