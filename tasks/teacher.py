"""teacher: fine-tune the base on gold labels, or verify one that is fine-tuned; scale its temperature on dev.

Several seeds or several bases make an ensemble: the first model lies in `data/teacher/`, the others in its `members/`.
Those of a multi_label task may answer some of the labels alone; in the folder each has an output for every label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from potstill.artifacts import whole_folder, write_json, write_manifest
from potstill.config.teacher_params import LabelMap, Teacher
from potstill.config.yaml_file import as_yaml
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.objective.gold_labels import Supervised
from potstill.distillation.teachers.mean_answers import pooled
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import LabelCountError
from potstill.evaluation.teaching import Verdict, fitting_order, judge
from potstill.models.loading import check_labels, load_classifier
from potstill.pretrained.heads import HEADS
from potstill.pretrained.inspection import read_saved
from potstill.pretrained.members import MEMBERS, Member, Weight, shares_by_label, write_members
from potstill.pretrained.output_layer import label_order, reorder_labels
from potstill.pretrained.output_names import LabelNamesError, order_by_words, unnamed
from potstill.progress import say
from potstill.scores.calibration import calibrated
from potstill.training.dev_scores import dev_score
from potstill.training.finished import copy_model, load_outcome, save, signals
from potstill.training.loop import Outcome, train
from tasks.learning import (
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


@dataclass(frozen=True)
class Plan:
    """One model to make: from what, as it is or fine-tuned, and what it counts."""

    name: str
    base: Path
    fine_tuned: bool
    weight: Weight
    labels: list[str]
    tokens: str = "."
    seed: int = 0
    # Of params, where the model is described.
    key: str = "teacher"
    label_map: LabelMap | None = None


def run(stage: Stage) -> Result:
    """Make `data/teacher/`."""
    plans, task, scoring = _plans(stage), task_kind(stage), scoring_of(stage)
    folders = [stage.checkpoints / "finished" / str(number) for number in range(len(plans))]
    made = {}
    # First those that are fine-tuned already: one that does not fit is refused before anything is trained.
    for number, plan in sorted(enumerate(plans), key=lambda item: not item[1].fine_tuned):
        if len(plans) > 1:
            say(f"teacher: {plan.name}, {number + 1} of {len(plans)}, {_counts(plan)}")
        made[number] = load_outcome(folders[number]) or _made(stage, plan, number, folders[number])
    outcomes = [made[number] for number in range(len(plans))]
    weights, dev = [plan.weight for plan in plans], open_split(stage, "dev")
    logits = pooled([signals(folder) for folder in folders], weights, task)
    temperature = calibrated(task, logits, dev.labels)
    score = scoring.score(logits, dev.whole_labels) if len(plans) > 1 else outcomes[0].score
    with whole_folder(stage.outs["teacher"]) as out:
        members = [_placed(stage, out, plan, number, folders[number]) for number, plan in enumerate(plans)]
        write_members(out, members)
        if temperature is not None:
            write_json(out / "calibration.json", {"temperature": temperature, "fitted_on": "dev", "rows": len(dev)})
        write_manifest(out, {scoring.dev_key: score, "steps": {"teacher": outcomes[0].steps}})
    alone = [outcome.score for outcome in outcomes]
    together = f" of {len(plans)} models together ({min(alone):.4f} to {max(alone):.4f} alone)"
    summary = f"dev {scoring.words} {score:.4f}{together if len(plans) > 1 else ''}"
    numbers = _alone(alone, scoring.dev_key)
    if temperature is not None:
        summary += f", temperature {temperature:.2f}"
        numbers |= {"temperature": temperature}
    return training_result(_joined(outcomes, score), scoring, summary, numbers)


def _plans(stage: Stage) -> list[Plan]:
    """The models that params name, the one whose layers the student starts from first."""
    teacher, base, first = stage.params(Teacher), stage.deps["base"], stage.project.seed
    labels, counts = tokens_info(stage)["labels"], [teacher.weight / teacher.seeds] * teacher.seeds
    own = _answered(teacher.labels, labels, "teacher.labels")
    plans = [
        Plan(f"seed {seed}", base, teacher.fine_tuned, 1.0, own, seed=seed, label_map=teacher.label_map)
        for seed in range(first, first + teacher.seeds)
    ]
    for name, member in teacher.members.items():
        tokens = f"{MEMBERS}/{name}" if (stage.deps["tokens"] / MEMBERS / name).exists() else "."
        key = f"teacher.members.{name}"
        own = _answered(member.labels, labels, f"{key}.labels")
        folder = base / MEMBERS / name
        plans.append(Plan(name, folder, member.fine_tuned, 1.0, own, tokens, first, key, member.label_map))
        counts.append(member.weight)
    weights = shares_by_label(counts, [plan.labels for plan in plans], labels)
    return [replace(plan, weight=weight) for plan, weight in zip(plans, weights, strict=True)]


def _answered(own: list[str] | None, labels: list[str], key: str) -> list[str]:
    """The labels that a model answers, in our order."""
    unknown = sorted(set(own or []) - set(labels))
    if unknown:
        raise LabelCountError(f"{key} names {unknown[0]!r}, the data has {', '.join(labels[:8])}; name some of those")
    return [label for label in labels if own is None or label in own]


def _counts(plan: Plan) -> str:
    """What a model's answers count, in words."""
    if not isinstance(plan.weight, tuple):
        return f"weight {plan.weight:.3g}"
    weights = [weight for weight in plan.weight if weight]
    return ", ".join(f"{label} {weight:.3g}" for label, weight in zip(plan.labels, weights, strict=True))


def _made(stage: Stage, plan: Plan, number: int, folder: Path) -> Outcome:
    """Make a model and keep it, with its logits on dev, until the stage ends."""
    model, outcome = _verified(stage, plan) if plan.fine_tuned else _fine_tuned(stage, plan, number)
    dev = _rows(stage, "dev", plan)
    with stage.work("inference"):
        logits = predict_logits(model, dev)
    if plan.fine_tuned:
        outcome.score = scoring_of(stage).score(logits, dev.whole_labels)
        _refuse_unfit(stage, plan, judge(task_kind(stage), logits, dev.whole_labels))
    labels = tokens_info(stage)["labels"]
    if plan.labels != labels:
        order = label_order(plan.labels, labels)
        reorder_labels(model, order, labels)
        logits = np.where(np.array(order) < 0, np.float32(0), logits[:, order])
    save(folder, model.cpu(), outcome, logits)
    return outcome


def _fine_tuned(stage: Stage, plan: Plan, number: int) -> tuple[PreTrainedModel, Outcome]:
    torch.manual_seed(plan.seed)
    model = load_classifier(plan.base, plan.labels, task_kind(stage))
    setting = prepare_setting(stage, stage.params(Teacher), model)
    if number:
        setting = replace(setting, seed=plan.seed, checkpoints=stage.checkpoints / f"member-{number}")
    score, gold = dev_score(task_kind(stage), _rows(stage, "dev", plan), setting), Supervised(task_kind(stage))
    with stage.work("training"):
        outcome = train(model, _rows(stage, "train", plan), gold, score, setting)
    return model, outcome


def _rows(stage: Stage, split: str, plan: Plan) -> TokenDataset:
    """A split in the model's own tokens, with the labels that it answers alone."""
    rows, labels = open_split(stage, split, member=plan.tokens), tokens_info(stage)["labels"]
    if plan.labels == labels:
        return rows
    return rows.with_labels(rows.labels[:, [labels.index(label) for label in plan.labels]])


def _verified(stage: Stage, plan: Plan) -> tuple[PreTrainedModel, Outcome]:
    task = task_kind(stage)
    try:
        order = check_labels(plan.base, plan.labels, task, plan.label_map, plan.key)
    except LabelNamesError as error:
        raise LabelNamesError(f"{error}{_fitting_map(stage, plan)}") from error
    model = load_classifier(plan.base)
    reorder_labels(model, order, plan.labels)
    model.config.problem_type = HEADS[task].problem_type or model.config.problem_type
    return model, Outcome()


def _fitting_map(stage: Stage, plan: Plan) -> str:
    """The map of a teacher's names that dev speaks for, as the end of a sentence."""
    dev, names = _rows(stage, "dev", plan), read_saved(plan.base).names.names
    with stage.work("inference"):
        logits = predict_logits(load_classifier(plan.base), dev)
    fitting = fitting_order(task_kind(stage), logits, dev.whole_labels, order_by_words(names, plan.labels))
    if fitting is None:
        return "; on dev no map is better than chance, so it may be a teacher of something else"
    order, share = fitting
    label_map = {name: plan.labels[place] for name, place in zip(names, order, strict=True)}
    return f": {as_yaml(label_map)} fits dev, right on {share:.1%}"


def _refuse_unfit(stage: Stage, plan: Plan, verdict: Verdict | None) -> None:
    """Refuse a fine-tuned teacher that dev says is none of this data, or whose labels are in another order.

    Raises:
        LabelCountError: it is not above chance, or better under another order of its labels.
    """
    if verdict is None:
        return
    place = f"the teacher in {plan.base} is {verdict.words}"
    if verdict.order is not None:
        raise LabelCountError(
            f"{place}, but with its labels in another order {verdict.better}; {_reorder(stage, plan, verdict.order)}"
        )
    if verdict.above_chance is False:
        raise LabelCountError(
            f"{place}, which is not above chance ({verdict.chance}); it is a teacher of something else or was never "
            f"trained: give another, or set {plan.key}.fine_tuned to false to fine-tune it"
        )
    if verdict.weak:
        labels = ", ".join(str(plan.labels[label]) for label in verdict.weak)
        say(f"teacher: on dev the answers of {plan.base} to {labels} are not above chance")


def _reorder(stage: Stage, plan: Plan, order: Sequence[int]) -> str:
    """What puts a teacher's labels into an order that is given for its outputs in ours."""
    names, task = read_saved(plan.base).names.names, task_kind(stage)
    labels = [plan.labels[place] for place in order]
    if unnamed(names) and task == "single_label" and plan.key == "teacher" and plan.label_map is None:
        return f"they have no names, so set prepare.labels to its order: {as_yaml(labels)}"
    places = check_labels(plan.base, plan.labels, task, plan.label_map, plan.key)
    fitting = {names[place]: label for place, label in zip(places, labels, strict=True)}
    return f"set {plan.key}.label_map to {as_yaml(fitting)}"


def _placed(stage: Stage, out: Path, plan: Plan, number: int, folder: Path) -> Member:
    """A finished model, with its tokenizer, where the teacher's folder has it."""
    place = out / MEMBERS / str(number) if number else out
    copy_model(folder, place, tokenizer_folder(stage, member=plan.tokens))
    return Member(place, plan.weight, plan.tokens)


def _joined(outcomes: list[Outcome], score: float) -> Outcome:
    """Several runs as one: their histories by number, the first one's without."""
    history = [
        (step, f"member_{number}_{name}" if number else name, value)
        for number, outcome in enumerate(outcomes)
        for step, name, value in outcome.history
    ]
    rows = sum(outcome.rows for outcome in outcomes)
    return Outcome(score=score, history=history, rows=rows, steps=outcomes[0].steps)


def _alone(scores: list[float], key: str) -> dict[str, float]:
    """Each model's own score on dev, where there are several."""
    return {f"{key}_{number}": score for number, score in enumerate(scores)} if len(scores) > 1 else {}


if __name__ == "__main__":
    main(run, shared=True)
