"""teacher: fine-tune the base on gold labels, or verify one that is fine-tuned; scale its temperature on dev."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from potstill.artifacts import whole_folder, write_json, write_manifest
from potstill.config import Teacher
from potstill.data.batches import TokenDataset
from potstill.distillation.objective import Supervised
from potstill.evaluation.calibration import calibrated
from potstill.models.heads import HEADS
from potstill.models.loading import check_labels, load_classifier, reorder_labels, save_model
from potstill.training.loop import Outcome, Setting, train
from potstill.training.predict import predict_logits
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(stage: Stage) -> Result:
    """Make `data/teacher/`."""
    teacher, task = stage.params(Teacher), task_kind(stage)
    dev = open_split(stage, "dev")
    model, outcome = _verified(stage, dev) if teacher.fine_tuned else _fine_tuned(stage, teacher)
    with stage.work("inference"):
        logits = predict_logits(model, dev)
    temperature = calibrated(task, logits, dev.labels)
    scoring = scoring_of(stage)
    with whole_folder(stage.outs["teacher"]) as folder:
        save_model(model.cpu(), folder, tokenizer_folder(stage))
        if temperature is not None:
            write_json(folder / "calibration.json", {"temperature": temperature, "fitted_on": "dev", "rows": len(dev)})
        write_manifest(folder, {scoring.dev_key: outcome.score})
    summary = f"dev {scoring.words} {outcome.score:.4f}"
    if temperature is None:
        return training_result(outcome, scoring, summary)
    return training_result(outcome, scoring, f"{summary}, temperature {temperature:.2f}", {"temperature": temperature})


def _fine_tuned(stage: Stage, teacher: Teacher) -> tuple[PreTrainedModel, Outcome]:
    torch.manual_seed(stage.project.seed)
    task = task_kind(stage)
    model = load_classifier(stage.deps["base"], tokens_info(stage)["labels"], task)
    setting: Setting = prepare_setting(stage, teacher, model)
    with stage.work("training"):
        outcome = train(model, open_split(stage, "train"), Supervised(task), dev_score(stage, setting), setting)
    return model, outcome


def _verified(stage: Stage, dev: TokenDataset) -> tuple[PreTrainedModel, Outcome]:
    labels, task = tokens_info(stage)["labels"], task_kind(stage)
    order = check_labels(stage.deps["base"], labels, task)
    model = load_classifier(stage.deps["base"])
    reorder_labels(model, order, labels)
    model.config.problem_type = HEADS[task].problem_type or model.config.problem_type
    with stage.work("inference"):
        return model, Outcome(score=scoring_of(stage).score(predict_logits(model, dev), dev.labels))


if __name__ == "__main__":
    main(run)
