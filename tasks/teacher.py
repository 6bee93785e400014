"""teacher: fine-tunes the base on gold labels, or checks one that is fine-tuned, and scales its temperature on dev.

Several seeds or several bases make an ensemble: the first model lies in `data/teacher/`, the others in its `members/`.
In a multi_label task a model may answer only some of the labels. In the folder it has an output for every label.
"""

from __future__ import annotations

import math
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
from potstill.data.tokens.token_folder import TokenFolder
from potstill.distillation.objective.gold_labels import Supervised
from potstill.distillation.teachers.mean_answers import pooled
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import LabelCountError
from potstill.evaluation.teacher_check import Verdict, fitting_order, judge
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import check_labels, load_classifier
from potstill.pretrained.inspection import read_saved
from potstill.pretrained.members import MEMBERS, Member, Weight, shares_by_label, write_members
from potstill.pretrained.output_layer import label_order, reorder_labels
from potstill.pretrained.output_names import LabelNamesError, order_by_words, unnamed
from potstill.progress import say
from potstill.training.curves import learning_curve
from potstill.training.dev_scores import dev_score
from potstill.training.finished import copy_model, load_outcome, save, signals
from potstill.training.loop import Outcome, train
from tasks.learning import open_tokens, prepare_setting, training_result
from tasks.stage import Result, Stage, main

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Plan:
    """The plan of one model.

    Attributes:
        name: name of the seed or the member.
        base: folder of the model to start from.
        fine_tuned: whether that model is taken as it is.
        weight: weight of its answers in the ensemble.
        labels: the labels that it answers.
        tokens: folder of its tokens below `data/tokens`.
        seed: seed of its training.
        key: key of params that describes it.
        label_map: its names of labels -> those of the data.
    """

    name: str
    base: Path
    fine_tuned: bool
    weight: Weight
    labels: list[str]
    tokens: str = "."
    seed: int = 0
    key: str = "teacher"
    label_map: LabelMap | None = None


def run(stage: Stage) -> Result:
    """Write `data/teacher/`."""
    tokens = open_tokens(stage)
    plans = _plans(stage, tokens.labels)
    scoring = KINDS[tokens.task].scoring
    folders = [stage.checkpoints / "finished" / str(number) for number in range(len(plans))]
    outcomes = _make_models(stage, plans, folders)
    dev = tokens.split("dev")
    logits = pooled([signals(folder) for folder in folders], [plan.weight for plan in plans], tokens.task)
    temperature = KINDS[tokens.task].temperature(logits, dev.labels)
    scores = [outcome.score for outcome in outcomes]
    score = scoring.score(logits, dev.whole_labels) if len(plans) > 1 else scores[0]
    with whole_folder(stage.outs["teacher"]) as out:
        members = [_write_member(tokens, out, plan, number, folders[number]) for number, plan in enumerate(plans)]
        write_members(out, members)
        if temperature is not None:
            write_json(out / "calibration.json", {"temperature": temperature, "fitted_on": "dev", "rows": len(dev)})
        facts = {
            scoring.dev_key: score,
            "steps": {"teacher": outcomes[0].steps},
            "choices": {"teacher": math.prod(outcome.choices for outcome in outcomes)},
            "curves": {"teacher": learning_curve(outcomes[0])},
        }
        write_manifest(out, facts | ({"member_scores": scores} if len(plans) > 1 else {}))
    summary = f"dev {scoring.words} {score:.4f}"
    numbers: dict[str, float] = {}
    if len(plans) > 1:
        summary += f" of {len(plans)} models together ({min(scores):.4f} to {max(scores):.4f} alone)"
        numbers |= {f"{scoring.dev_key}_{number}": value for number, value in enumerate(scores)}
    if temperature is not None:
        summary += f", temperature {temperature:.2f}"
        numbers |= {"temperature": temperature}
    return training_result(_join_outcomes(outcomes, score), scoring, summary, numbers)


def _make_models(stage: Stage, plans: list[Plan], folders: list[Path]) -> list[Outcome]:
    """Make the models that an interrupted run has not finished.

    Fine-tuned models come first: one that does not fit the data is refused before anything is trained.
    """
    outcomes: dict[int, Outcome] = {}
    for number, plan in sorted(enumerate(plans), key=lambda item: not item[1].fine_tuned):
        if len(plans) > 1:
            say(f"teacher: {plan.name}, {number + 1} of {len(plans)}, {_weight_words(plan)}")
        outcomes[number] = load_outcome(folders[number]) or _make_model(stage, plan, number, folders[number])
    return [outcomes[number] for number in range(len(plans))]


def _plans(stage: Stage, labels: list[str]) -> list[Plan]:
    """Return plans for the models that params name, first the one whose layers the student starts from."""
    teacher = stage.params(Teacher)
    base = stage.deps["base"]
    first_seed = stage.project.seed
    answered = _answered_labels(teacher.labels, labels, "teacher.labels")
    plans = [
        Plan(f"seed {seed}", base, teacher.fine_tuned, 1.0, answered, seed=seed, label_map=teacher.label_map)
        for seed in range(first_seed, first_seed + teacher.seeds)
    ]
    weights = [teacher.weight / teacher.seeds] * teacher.seeds
    for name, member in teacher.members.items():
        tokens = f"{MEMBERS}/{name}" if (stage.deps["tokens"] / MEMBERS / name).exists() else "."
        key = f"teacher.members.{name}"
        answered = _answered_labels(member.labels, labels, f"{key}.labels")
        folder = base / MEMBERS / name
        plans.append(Plan(name, folder, member.fine_tuned, 1.0, answered, tokens, first_seed, key, member.label_map))
        weights.append(member.weight)
    shares = shares_by_label(weights, [plan.labels for plan in plans], labels)
    return [replace(plan, weight=share) for plan, share in zip(plans, shares, strict=True)]


def _answered_labels(named: list[str] | None, labels: list[str], key: str) -> list[str]:
    """Return the labels that a model answers, in the data's order; all where params name none."""
    unknown = sorted(set(named or []) - set(labels))
    if unknown:
        raise LabelCountError(f"{key} names {unknown[0]!r}, the data has {', '.join(labels[:8])}; name some of those")
    return [label for label in labels if named is None or label in named]


def _weight_words(plan: Plan) -> str:
    """Describe the weight of a model's answers in the ensemble."""
    if not isinstance(plan.weight, tuple):
        return f"weight {plan.weight:.3g}"
    weights = [weight for weight in plan.weight if weight]
    return ", ".join(f"{label} {weight:.3g}" for label, weight in zip(plan.labels, weights, strict=True))


def _make_model(stage: Stage, plan: Plan, number: int, folder: Path) -> Outcome:
    """Make a model and keep it, with its logits on dev, until the stage ends."""
    tokens = open_tokens(stage)
    model, outcome = _load_fine_tuned(stage, plan) if plan.fine_tuned else _fine_tune(stage, plan, number)
    dev = _rows(tokens, "dev", plan)
    with stage.work("inference"):
        logits = predict_logits(model, dev)
    if plan.fine_tuned:
        outcome.score = KINDS[tokens.task].scoring.score(logits, dev.whole_labels)
        _refuse_unfit(stage, plan, judge(tokens.task, logits, dev.whole_labels))
    if plan.labels != tokens.labels:
        order = label_order(plan.labels, tokens.labels)
        reorder_labels(model, order, tokens.labels)
        logits = np.where(np.array(order) < 0, np.float32(0), logits[:, order])
    save(folder, model.cpu(), outcome, logits)
    return outcome


def _fine_tune(stage: Stage, plan: Plan, number: int) -> tuple[PreTrainedModel, Outcome]:
    torch.manual_seed(plan.seed)
    tokens = open_tokens(stage)
    task = tokens.task
    model = load_classifier(plan.base, plan.labels, task)
    setting = prepare_setting(stage, stage.params(Teacher), model)
    if number:
        setting = replace(setting, seed=plan.seed, checkpoints=stage.checkpoints / f"member-{number}")
    score = dev_score(task, _rows(tokens, "dev", plan), setting)
    with stage.work("training"):
        outcome = train(model, _rows(tokens, "train", plan), Supervised(task), score, setting)
    return model, outcome


def _rows(tokens: TokenFolder, split: str, plan: Plan) -> TokenDataset:
    """Open a split in the model's own tokens, with only the labels that it answers."""
    rows = tokens.member(plan.tokens).split(split)
    if plan.labels == tokens.labels:
        return rows
    return rows.with_labels(rows.labels[:, [tokens.labels.index(label) for label in plan.labels]])


def _load_fine_tuned(stage: Stage, plan: Plan) -> tuple[PreTrainedModel, Outcome]:
    task = open_tokens(stage).task
    try:
        order = check_labels(plan.base, plan.labels, task, plan.label_map, plan.key)
    except LabelNamesError as error:
        raise LabelNamesError(f"{error}{_label_map_hint(stage, plan)}") from error
    model = load_classifier(plan.base)
    reorder_labels(model, order, plan.labels)
    model.config.problem_type = KINDS[task].head.problem_type or model.config.problem_type
    return model, Outcome()


def _label_map_hint(stage: Stage, plan: Plan) -> str:
    """Return the map of a teacher's label names that dev supports, as the end of a sentence."""
    tokens = open_tokens(stage)
    dev = _rows(tokens, "dev", plan)
    names = read_saved(plan.base).names.names
    with stage.work("inference"):
        logits = predict_logits(load_classifier(plan.base), dev)
    fitting = fitting_order(tokens.task, logits, dev.whole_labels, order_by_words(names, plan.labels))
    if fitting is None:
        return "; on dev no map is better than chance, so it may be a teacher of something else"
    order, share = fitting
    label_map = {name: plan.labels[index] for name, index in zip(names, order, strict=True)}
    return f": {as_yaml(label_map)} fits dev, right on {share:.1%}"


def _refuse_unfit(stage: Stage, plan: Plan, verdict: Verdict | None) -> None:
    """Refuse a fine-tuned teacher that does not fit dev, or whose labels are in another order.

    Raises:
        LabelCountError: it is not above chance, or better under another order of its labels.
    """
    if verdict is None:
        return
    quality = f"the teacher in {plan.base} is {verdict.words}"
    if verdict.order is not None:
        advice = _reorder_advice(stage, plan, verdict.order)
        raise LabelCountError(f"{quality}, but with its labels in another order {verdict.better}; {advice}")
    if verdict.above_chance is False:
        raise LabelCountError(
            f"{quality}, which is not above chance ({verdict.chance}); it is a teacher of something else or was never "
            f"trained: give another, or set {plan.key}.fine_tuned to false to fine-tune it"
        )
    if verdict.weak:
        labels = ", ".join(str(plan.labels[label]) for label in verdict.weak)
        say(f"teacher: on dev the answers of {plan.base} to {labels} are not above chance")


def _reorder_advice(stage: Stage, plan: Plan, order: Sequence[int]) -> str:
    """Say which key of params puts a teacher's labels in order.

    Args:
        stage: the teacher stage.
        plan: the teacher's plan.
        order: for each of its outputs, in the data's order, the index of the label that fits.
    """
    names = read_saved(plan.base).names.names
    task = open_tokens(stage).task
    labels = [plan.labels[index] for index in order]
    if unnamed(names) and KINDS[task].form == "class" and plan.key == "teacher" and plan.label_map is None:
        return f"they have no names, so set prepare.labels to its order: {as_yaml(labels)}"
    outputs = check_labels(plan.base, plan.labels, task, plan.label_map, plan.key)
    label_map = {names[output]: label for output, label in zip(outputs, labels, strict=True)}
    return f"set {plan.key}.label_map to {as_yaml(label_map)}"


def _write_member(tokens: TokenFolder, out: Path, plan: Plan, number: int, folder: Path) -> Member:
    """Copy a finished model with its tokenizer to its folder of the teacher."""
    target = out / MEMBERS / str(number) if number else out
    copy_model(folder, target, tokens.member(plan.tokens).tokenizer_dir)
    return Member(target, plan.weight, plan.tokens)


def _join_outcomes(outcomes: list[Outcome], score: float) -> Outcome:
    """Join several training runs; the histories of all but the first are named by their number."""
    history = [
        (step, f"member_{number}_{name}" if number else name, value)
        for number, outcome in enumerate(outcomes)
        for step, name, value in outcome.history
    ]
    rows = sum(outcome.rows for outcome in outcomes)
    return Outcome(score=score, history=history, rows=rows, steps=outcomes[0].steps)


if __name__ == "__main__":
    main(run, shared=True)
