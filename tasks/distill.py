"""distill: a student made of the teacher's layers learns the teacher's signals on labelled and transfer rows."""

from __future__ import annotations

from potstill.artifacts import whole_folder, write_manifest
from potstill.config import Distill
from potstill.data.batches import TokenDataset
from potstill.distillation.columns import described
from potstill.distillation.composition import Blend, Distillation, distillation
from potstill.distillation.signals import StoredSignals
from potstill.models.loading import load_classifier, save_model
from potstill.progress import say
from potstill.training.loop import train
from tasks.learning import (
    dev_accuracy,
    open_split,
    prepare_setting,
    student_tokens,
    tokenizer_folder,
    training_result,
)
from tasks.stage import Result, Stage, main
from tasks.students import make_student


def run(stage: Stage) -> Result:
    """Make `data/distilled/`."""
    distill = stage.params(Distill)
    teacher = load_classifier(stage.deps["teacher"])
    teacher_rows = _rows(stage, distill, student=False)
    own_tokens = student_tokens(stage) != stage.deps["tokens"]
    dataset = _rows(stage, distill, student=True) if own_tokens else teacher_rows
    stored = StoredSignals.open(stage.deps["signals"], teacher_rows, stage.deps["teacher"])
    logits_alone = Distillation(stored, Blend(distill.temperature, distill.alpha))
    student = make_student(stage, teacher, dataset, logits_alone)
    setting = prepare_setting(stage, distill, student)
    objective = distillation(
        distill,
        student,
        teacher,
        stored,
        device=setting.device,
        precision=setting.precision,
        seed=stage.project.seed,
        teacher_rows=teacher_rows if own_tokens else None,
    )
    if not stored.supports(objective.asks):
        say(f"distill: the teacher runs for its {described(objective.asks)}, which the signals stage can store")
    unlabelled = f"{int((dataset.labels < 0).sum()):,} of {len(dataset):,} rows have no gold label and carry KL alone"
    first, *others = objective.describe()
    for line in (f"{first}; {unlabelled}", *others):
        say(f"distill: {line}")
    dev = open_split(stage, "dev", student=True)
    with stage.work("training"):
        outcome = train(student, dataset, objective, dev_accuracy(dev, setting), setting)
    with whole_folder(stage.outs["distilled"]) as folder:
        save_model(student.cpu(), folder, tokenizer_folder(stage, student=True))
        write_manifest(folder, {"dev_accuracy": outcome.score})
    return training_result(outcome, f"dev accuracy {outcome.score:.4f} with {_start(distill)}")


def _start(distill: Distill) -> str:
    """What the student started from, in words."""
    if distill.student.kind == "config":
        return f"{len(distill.layers)} layers at random"
    return f"layers {distill.layers} of the {'checkpoint' if distill.student.kind == 'checkpoint' else 'teacher'}"


def _rows(stage: Stage, distill: Distill, *, student: bool) -> TokenDataset:
    """The rows to learn from, as the student's tokens or the teacher's."""
    splits = ["train", "transfer"] if distill.transfer else ["train"]
    return TokenDataset.concatenate([open_split(stage, split, student=student) for split in splits])


if __name__ == "__main__":
    main(run, shared=True)
