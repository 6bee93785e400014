"""distill: a student made of the teacher's layers learns the teacher's signals on labelled and transfer rows."""

from __future__ import annotations

from potstill.artifacts import whole_folder, write_manifest
from potstill.config import Distill
from potstill.data.batches import TokenDataset, labelled
from potstill.distillation.composition import distillation
from potstill.distillation.signals import StoredSignals
from potstill.distillation.supervision import HEAD_LOSSES
from potstill.models.heads import task_of
from potstill.models.loading import load_classifier, save_model
from potstill.models.student import student_from_layers
from potstill.progress import say
from potstill.training.loop import train
from tasks.learning import dev_score, open_split, prepare_setting, scoring_of, tokenizer_folder, training_result
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Make `data/distilled/`."""
    distill = stage.params(Distill)
    teacher = load_classifier(stage.deps["teacher"])
    student = student_from_layers(teacher, distill.layers)
    splits = ["train", "transfer"] if distill.transfer else ["train"]
    dataset = TokenDataset.concatenate([open_split(stage, split) for split in splits])
    setting = prepare_setting(stage, distill, student)
    score = dev_score(stage, setting)
    scoring = scoring_of(stage)
    stored = StoredSignals.open(stage.deps["signals"], dataset, stage.deps["teacher"])
    device, precision = setting.device, setting.precision
    objective = distillation(
        distill, student, teacher, stored, device=device, precision=precision, seed=stage.project.seed
    )
    soft = HEAD_LOSSES[task_of(student)].soft_term.upper()
    without = int((~labelled(dataset.labels)).sum())
    unlabelled = f"{without:,} of {len(dataset):,} rows have no gold label and carry {soft} alone"
    first, *others = objective.describe()
    for line in (f"{first}; {unlabelled}", *others):
        say(f"distill: {line}")
    with stage.work("training"):
        outcome = train(student, dataset, objective, score, setting)
    with whole_folder(stage.outs["distilled"]) as folder:
        save_model(student.cpu(), folder, tokenizer_folder(stage))
        write_manifest(folder, {scoring.dev_key: outcome.score})
    return training_result(
        outcome, scoring, f"dev {scoring.words} {outcome.score:.4f} with layers {distill.layers} of the teacher"
    )


if __name__ == "__main__":
    main(run)
