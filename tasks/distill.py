"""distill: trains a student made of the teacher's layers on the teacher's signals, over train and transfer rows.

With assistants, the last of them teaches the student. With mutual distillation several students learn together, and
the best is written.
"""

from __future__ import annotations

from functools import partial

from potstill.artifacts import whole_folder, write_manifest
from potstill.config.distill_params import Distill
from potstill.data.tokens.batches import has_label
from potstill.data.tokens.token_folder import TokenFolder
from potstill.distillation.teachers.position_mapping import map_positions
from potstill.distillation.teachers.signal_arrays import described
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.losses.task_losses import HEAD_LOSSES
from potstill.models.loading import load_classifier
from potstill.progress import say
from potstill.training.curves import learning_curve
from potstill.training.distillation_job import (
    DistillationData,
    DistillationJob,
    Preparation,
    TeacherAnswers,
    TokenRows,
    TrainedStudent,
)
from tasks.learning import open_tokens, prepare_setting, stored_signals, teacher_logits, training_result
from tasks.stage import Result, Stage, main
from tasks.student_building import save_student, student_builder


def run(stage: Stage) -> Result:
    """Write `data/distilled/`."""
    distill, tokens = stage.params(Distill), open_tokens(stage)
    preparation = distillation_job(stage, tokens, open_data(tokens, distill)).prepare()
    _describe(preparation)
    return _write(stage, tokens, preparation.train())


def open_data(tokens: TokenFolder, distill: Distill) -> DistillationData:
    """Open the rows to learn from and dev, as tokens of the teacher and of the student."""
    splits = ["train", "transfer"] if distill.transfer else ["train"]
    teacher = _open_rows(tokens, splits)
    if tokens.student is tokens:
        return DistillationData(tokens.task, teacher, teacher)
    positions = None
    if KINDS[tokens.task].marks_spans:
        positions = map_positions(tokens.task, tokens.student.files(splits), tokens.files(splits))
    return DistillationData(tokens.task, teacher, _open_rows(tokens.student, splits), positions)


def distillation_job(stage: Stage, tokens: TokenFolder, data: DistillationData) -> DistillationJob:
    """Set up the distillation that the stage's params describe."""
    signals = stored_signals(stage, data.teacher.train)
    teacher = TeacherAnswers(load_classifier(stage.deps["teacher"]), signals, partial(teacher_logits, stage, "dev"))
    return DistillationJob(data, teacher, student_builder(stage, tokens), partial(prepare_setting, stage))


def _open_rows(tokens: TokenFolder, splits: list[str]) -> TokenRows:
    dev = tokens.split("dev")
    return TokenRows(tokens.split(*splits), dev, dev.whole_labels)


def _describe(preparation: Preparation) -> None:
    """Print what is minimised, and on which rows."""
    data, needs = preparation.job.data, preparation.objective.teacher_needs
    if not preparation.teaching.source.supports(needs):
        say(f"distill: the teacher runs for its {described(needs)}, which the signals stage can store")
    labels = data.student.train.labels
    without = int((~has_label(labels)).sum())
    soft = HEAD_LOSSES[data.task].soft_term.upper()
    unlabelled = f"{without:,} of {len(labels):,} rows have no gold label and carry {soft} alone"
    first_line, *further_lines = preparation.objective.describe()
    for line in (f"{first_line}; {unlabelled}", *further_lines):
        say(f"distill: {line}")


def _write(stage: Stage, tokens: TokenFolder, student: TrainedStudent) -> Result:
    """Write the student, and report its training."""
    outcome, scores, scoring = student.outcome, student.scores, KINDS[tokens.task].scoring
    with whole_folder(stage.outs["distilled"]) as folder:
        save_student(tokens, student.model, folder)
        facts = {
            scoring.dev_key: outcome.score,
            "steps": {"distill": outcome.steps},
            "choices": {"distill": student.choices},
            "curves": {"distill": learning_curve(outcome)},
        }
        write_manifest(folder, facts | ({"others": scores} if scores else {}))
    summary = f"dev {scoring.words} {outcome.score:.4f} with {_start(stage.params(Distill), student.layers)}"
    if scores:
        words = ", ".join(f"{name.replace('_', ' ')} {score:.4f}" for name, score in scores.items())
        summary += f" ({words})"
    metrics = {f"{scoring.dev_key}_{name}": score for name, score in scores.items()}
    return training_result(outcome, scoring, summary, metrics)


def _start(distill: Distill, layers: list[int]) -> str:
    """Say what the student started from."""
    if distill.student.kind == "config":
        return f"{len(layers)} layers at random"
    if distill.student.kind == "static":
        return f"a vector of {distill.student.dimensions} for each token"
    return f"layers {layers} of the {'checkpoint' if distill.student.kind == 'checkpoint' else 'teacher'}"


if __name__ == "__main__":
    main(run, shared=True)
