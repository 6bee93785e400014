"""distill: a student made of the teacher's layers learns the teacher's signals on labelled and transfer rows.

With assistants, the last of them teaches it; with mutual distillation several students learn, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from potstill.artifacts import whole_folder, write_manifest
from potstill.config.base import OF_PLACES
from potstill.config.distill_params import Distill
from potstill.data.tokens.batches import TokenDataset, labelled
from potstill.distillation.objective.composition import Blend, Distillation
from potstill.distillation.objective.gold_labels import Objective
from potstill.distillation.objective.supervision import HEAD_LOSSES
from potstill.distillation.teachers.position_mapping import PositionMapping, map_positions, mapped_source
from potstill.distillation.teachers.signal_arrays import described
from potstill.models.loading import load_classifier
from potstill.models.students.student import check_plan
from potstill.pretrained.heads import task_of
from potstill.progress import say
from potstill.training.assistants import Teaching, through_assistants
from potstill.training.loop import Outcome
from potstill.training.together import Best, objective_for, train_students
from tasks.learning import (
    dev_score,
    open_split,
    open_splits,
    prepare_setting,
    scoring_of,
    stored_signals,
    student_tokens,
    task_kind,
    teacher_logits,
    training_result,
)
from tasks.stage import Result, Stage, main
from tasks.student_building import make_student, save_student

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(stage: Stage) -> Result:
    """Make `data/distilled/`."""
    distill = stage.params(Distill)
    teacher_rows = open_splits(stage, _splits(distill))
    own_tokens = student_tokens(stage) != stage.deps["tokens"]
    dataset = open_splits(stage, _splits(distill), student=True) if own_tokens else teacher_rows
    teaching = _teaching(stage, distill, teacher_rows)
    places = _places(stage, _splits(distill)) if own_tokens and task_of(teaching.model) in OF_PLACES else None
    source = teaching.source if places is None else mapped_source(teaching.source, teacher_rows, places)
    students = _students(stage, distill, replace(teaching, source=source), dataset)
    setting = prepare_setting(stage, distill, students[0])
    objective = objective_for(distill, students, teaching, setting, teacher_rows if own_tokens else None, places)
    _describe(objective, teaching, dataset)
    teacher = None
    # A single evaluation is the best in any case, and answers about other tokens cannot be compared.
    if distill.epochs * distill.evaluations_per_epoch > 1 and places is None:
        with stage.work("inference"):
            teacher = teacher_logits(stage, "dev")
    score = dev_score(stage, open_split(stage, "dev", student=True), setting, teacher)
    with stage.work("training"):
        best = train_students(students, objective, dataset, score, setting)
    return _write(stage, distill, students[best.place], best, teaching)


def _splits(distill: Distill) -> list[str]:
    """The rows to learn from."""
    return ["train", "transfer"] if distill.transfer else ["train"]


def _places(stage: Stage, splits: Sequence[str]) -> PositionMapping:
    """Where the teacher answers what the student's tokens are asked."""
    folders = (student_tokens(stage), stage.deps["tokens"])
    ours, theirs = ([folder / f"{split}.arrow" for split in splits] for folder in folders)
    return map_positions(task_kind(stage), ours, theirs)


def _teaching(stage: Stage, distill: Distill, rows: TokenDataset) -> Teaching:
    """The teacher and its signals, or the last assistant and its."""
    teacher = load_classifier(stage.deps["teacher"])
    if distill.student.kind in ("layers", "distilbert"):
        check_plan(distill, teacher)
    teaching = Teaching(teacher, stored_signals(stage, rows), distill.layers)
    if not distill.assistants:
        return teaching
    setting = prepare_setting(stage, distill, teacher)
    with stage.work("training"):
        return through_assistants(distill, teaching, rows, dev_score(stage, open_split(stage, "dev"), setting), setting)


def _students(stage: Stage, distill: Distill, teaching: Teaching, rows: TokenDataset) -> list[PreTrainedModel]:
    """The one student, or those that teach each other."""
    logits_alone = Distillation(teaching.source, Blend(distill.temperature, distill.alpha, task_of(teaching.model)))
    each = [teaching.layers] if distill.mutual is None else distill.mutual.students
    return [make_student(stage, teaching.model, rows, logits_alone, layers) for layers in each]


def _describe(objective: Objective, teaching: Teaching, dataset: TokenDataset) -> None:
    if not teaching.source.supports(objective.teacher_needs):
        needs = described(objective.teacher_needs)
        say(f"distill: the teacher runs for its {needs}, which the signals stage can store")
    soft = HEAD_LOSSES[task_of(teaching.model)].soft_term.upper()
    without = int((~labelled(dataset.labels)).sum())
    unlabelled = f"{without:,} of {len(dataset):,} rows have no gold label and carry {soft} alone"
    first, *others = objective.describe()
    for line in (f"{first}; {unlabelled}", *others):
        say(f"distill: {line}")


def _write(stage: Stage, distill: Distill, student: PreTrainedModel, best: Best, teaching: Teaching) -> Result:
    outcome, scoring = best.outcome, scoring_of(stage)
    alone = {f"assistant_{number}": found.score for number, found in enumerate(teaching.outcomes, start=1)}
    alone |= {f"student_{number}": score for number, score in enumerate(best.scores, start=1)}
    with whole_folder(stage.outs["distilled"]) as folder:
        save_student(stage, student, folder)
        about = {scoring.dev_key: outcome.score, "steps": {"distill": outcome.steps}}
        write_manifest(folder, about | ({"others": alone} if alone else {}))
    beside = ", ".join(f"{name.replace('_', ' ')} {score:.4f}" for name, score in alone.items())
    summary = f"dev {scoring.words} {outcome.score:.4f} with {_start(distill, best.place)}"
    rows = outcome.rows + sum(found.rows for found in teaching.outcomes)
    history = [*teaching.history, *outcome.history]
    joined = Outcome(outcome.score, outcome.scores, history, rows, steps=outcome.steps)
    scores = {f"{scoring.dev_key}_{name}": score for name, score in alone.items()}
    return training_result(joined, scoring, summary + (f" ({beside})" if beside else ""), scores)


def _start(distill: Distill, place: int) -> str:
    """What the student started from, in words."""
    if distill.student.kind == "config":
        return f"{len(distill.layers)} layers at random"
    if distill.student.kind == "static":
        return f"a vector of {distill.student.dimensions} for each token"
    layers = distill.layers if distill.mutual is None else distill.mutual.students[place]
    return f"layers {layers} of the {'checkpoint' if distill.student.kind == 'checkpoint' else 'teacher'}"


if __name__ == "__main__":
    main(run, shared=True)
