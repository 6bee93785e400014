"""Computes the numbers of reports/metrics.json from logits. Pure: answers come in, plain values go out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from potstill.config.evaluation_params import Evaluate
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.naming import BASELINE, QUANTIZED
from potstill.kinds.definitions.kind import Kind
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.offsets import OWN
from potstill.scores.metrics import Doubles, Floats, Ints, Labels, Reliability
from potstill.scores.statistics import Comparison, Moments, ratio_interval

# Gold labels [rows, ...] in the task's form; for spans of texts, objects that score logits.
Gold = Labels | GoldTags | GoldAnswers
View = TypeVar("View", bound=Gold)


@dataclass(frozen=True)
class Answers:
    """One model's answers to a labelled split.

    Attributes:
        logits: [rows, labels], finite. For entities [answers, tags] of the tokens that answer; for questions [windows]
            objects [tokens, 2].
        temperature: divides the logits before they become probabilities; 1 for a model that was not calibrated.
        parameters: the model's number of weights.
        file_bytes: size of the file that holds them.
        task: the kind of task, which decides what the logits are.
        members: models whose mean answers the logits are; weights, file and speed are those of one model.
        own_gold: for entities and questions, the gold labels in the model's own tokens or windows, where these differ
            from the other models'.
    """

    logits: npt.NDArray[Any]
    temperature: float
    parameters: int
    file_bytes: int
    task: TaskKind = "single_label"
    members: int = 1
    own_gold: GoldTags | GoldAnswers | None = None

    def view(self, labels: View) -> View:
        """Return the gold labels in the model's own tokens or windows."""
        return labels if self.own_gold is None else cast("View", self.own_gold)

    @cached_property
    def predictions(self) -> Ints:
        """[rows] the most probable class."""
        classes: Ints = self.logits.argmax(axis=1)
        return classes

    @property
    def kind(self) -> Kind:
        """The kind of task."""
        return KINDS[self.task]

    @property
    def probabilities(self) -> Doubles:
        """[rows, labels] after calibration; in a multi_label task each label by itself."""
        return self.kind.evaluated_probabilities(self.logits, self.temperature)

    @property
    def numbers(self) -> Floats:
        """[rows] the numbers that a regression answers."""
        return self.logits[:, 0]

    def moments(self, labels: Gold) -> Moments:
        """Score the answers, in a form from which intervals can be drawn."""
        return self.kind.moments(self.view(labels), self.logits)

    def reliability(self, labels: Gold, bins: int) -> Reliability:
        """Compare confidence with accuracy after calibration; for entities, token by token."""
        return self.kind.reliability(self.view(labels), self.probabilities, bins)


def score(labels: Gold, answers: Answers, settings: Evaluate) -> dict[str, float | int]:
    """Compute one model's entry of metrics.json, without its speed.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        answers: the model's logits on those rows.
        settings: level of the intervals, resamples of those that are bootstrapped, bins of the calibration error.
    """
    scores: dict[str, float | int] = {}
    scores |= answers.kind.scores(
        answers.view(labels), answers.logits, replicates=settings.bootstrap, confidence=settings.confidence
    )
    if answers.kind.has_classes:
        ece = answers.reliability(labels, settings.calibration_bins).ece
        scores |= {"ece": ece, "temperature": answers.temperature}
    scores |= {"parameters": answers.parameters, "megabytes": answers.file_bytes / 1e6}
    return scores | ({"members": answers.members} if answers.members > 1 else {})


def compare(
    labels: Gold, models: Mapping[str, Answers], candidate: str, settings: Evaluate, *, seed: int
) -> dict[str, Any]:
    """Compute `comparison` of metrics.json, without the speed-up: the candidate against every other model.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        models: name -> answers; holds `teacher`, `control`, the candidate and, where there are any, the quantized
            teacher and the baseline.
        candidate: name of the model that ships.
        settings: level of the interval and resamples of the bootstrap.
        seed: seed of the bootstrap.
    """
    student = models[candidate]
    teacher = models["teacher"]
    rivals = {
        name: compare_pair(labels, student, rival, settings, seed)
        for name, rival in models.items()
        if name != candidate
    }
    control = rivals["control"]
    comparison: dict[str, Any] = fidelity(teacher, student, labels=labels) | {
        "gain_over_control": control.difference,
        "control": control.to_json(),
        "rivals": {name: rival.to_json() for name, rival in rivals.items()},
    }
    for name in (QUANTIZED, BASELINE):
        if name in rivals:
            comparison[name] = rivals[name].to_json()
    return comparison | teacher_share(labels, student, teacher, settings, seed)


def teacher_share(labels: Gold, student: Answers, teacher: Answers, settings: Evaluate, seed: int) -> dict[str, float]:
    """Compute the share of the teacher's score that a student keeps, with its interval over resampled rows.

    Returns:
        `teacher_ratio`, `teacher_ratio_low` and `teacher_ratio_high`. Empty where the teacher's score is not above 0,
        so that a gate on them fails.
    """
    teacher_score = score_value(labels, teacher)
    if teacher_score <= 0:
        return {}
    low, high = ratio_interval(
        student.kind.moments(student.view(labels), student.logits),
        teacher.kind.moments(teacher.view(labels), teacher.logits),
        student.kind.scoring.key,
        replicates=settings.bootstrap,
        confidence=settings.confidence,
        seed=seed,
    )
    ratio = score_value(labels, student) / teacher_score
    return {"teacher_ratio": ratio, "teacher_ratio_low": low, "teacher_ratio_high": high}


def score_value(labels: Gold, answers: Answers) -> float:
    """Compute the task's score."""
    return answers.kind.score(answers.view(labels), answers.logits)


def compare_pair(labels: Gold, student: Answers, rival: Answers, settings: Evaluate, seed: int) -> Comparison:
    """Compare the scores of two models on the same rows."""
    options: dict[str, Any] = {"replicates": settings.bootstrap, "confidence": settings.confidence, "seed": seed}
    sides = ([(answers.view(labels), answers.logits)] for answers in (student, rival))
    return student.kind.compare(*sides, **options)[0]


def fidelity(teacher: Answers, student: Answers, *, labels: Gold | None = None) -> dict[str, float]:
    """Compare a student's answers with the teacher's: agreement or correlation first, then divergence or distance.

    With `GoldAnswers` the answers to questions are compared as texts, which yields an agreement alone; without them,
    window by window.
    """
    if isinstance(labels, GoldAnswers):
        pairs = zip(*(answers.view(labels).answers(answers.logits) for answers in (teacher, student)), strict=True)
        return {"agreement": float(np.mean([first == second for first, second in pairs]))}
    if isinstance(labels, GoldTags) and (teacher.own_gold, student.own_gold) != (None, None):
        teacher, student = _restrict_to_shared_units(labels, teacher, student)
    return student.kind.fidelity(teacher.logits, student.logits, (teacher.temperature, student.temperature))


def _restrict_to_shared_units(labels: GoldTags, teacher: Answers, student: Answers) -> tuple[Answers, Answers]:
    """Keep both models' answers about the units for which each has a token of its own."""
    teacher_units = teacher.view(labels).visibility == OWN
    student_units = student.view(labels).visibility == OWN
    shared = teacher_units & student_units
    return (
        replace(teacher, logits=teacher.logits[shared[teacher_units]], own_gold=None),
        replace(student, logits=student.logits[shared[student_units]], own_gold=None),
    )
