"""distill: a student made of the teacher's layers learns the teacher's signals on labelled and transfer rows."""

from __future__ import annotations

from potstill.artifacts import whole_folder, write_manifest
from potstill.config import Distill
from potstill.data.batches import TokenDataset
from potstill.distillation.composition import distillation
from potstill.distillation.signals import StoredSignals
from potstill.models.loading import load_classifier, save_model
from potstill.models.start import start_from_general
from potstill.models.student import student_from_layers
from potstill.progress import say
from potstill.training.loop import train
from tasks.learning import dev_accuracy, open_split, prepare_setting, tokenizer_folder, training_result
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Make `data/distilled/`."""
    distill = stage.params(Distill)
    teacher = load_classifier(stage.deps["teacher"])
    student = student_from_layers(teacher, distill.layers)
    if start_from_general(student, stage.deps["general"]):
        say("distill: the student starts from the general student, its head from the teacher")
    splits = ["train", "transfer"] if distill.transfer else ["train"]
    dataset = TokenDataset.concatenate([open_split(stage, split) for split in splits])
    setting = prepare_setting(stage, distill, student)
    stored = StoredSignals.open(stage.deps["signals"], dataset, stage.deps["teacher"])
    device, precision = setting.device, setting.precision
    objective = distillation(
        distill, student, teacher, stored, device=device, precision=precision, seed=stage.project.seed
    )
    unlabelled = f"{int((dataset.labels < 0).sum()):,} of {len(dataset):,} rows have no gold label and carry KL alone"
    first, *others = objective.describe()
    for line in (f"{first}; {unlabelled}", *others):
        say(f"distill: {line}")
    with stage.work("training"):
        outcome = train(student, dataset, objective, dev_accuracy(open_split(stage, "dev"), setting), setting)
    with whole_folder(stage.outs["distilled"]) as folder:
        save_model(student.cpu(), folder, tokenizer_folder(stage))
        write_manifest(folder, {"dev_accuracy": outcome.score})
    return training_result(outcome, f"dev accuracy {outcome.score:.4f} with layers {distill.layers} of the teacher")


if __name__ == "__main__":
    main(run)
