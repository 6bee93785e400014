"""Computes the numbers of reports/metrics.json from logits. Pure: answers come in, plain values go out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from potstill.config.base import TaskKind
from potstill.config.evaluation_params import Evaluate
from potstill.data.tokens.offsets import OWN
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.naming import BASELINE
from potstill.inference.probabilities import sigmoid
from potstill.scores import metrics, numbers, several
from potstill.scores.metrics import Doubles, Floats, Ints, Labels, Reliability
from potstill.scores.scoring import SCORINGS
from potstill.scores.statistics import Comparison, Moments, compare_scores, paired_bootstrap, wilson_interval

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

    @cached_property
    def log_probabilities(self) -> Doubles:
        """[rows, labels] after calibration."""
        return metrics.log_softmax(self.logits, self.temperature)

    @property
    def probabilities(self) -> Doubles:
        """[rows, labels] after calibration; in a multi_label task each label by itself."""
        if self.task == "multi_label":
            return sigmoid(self.logits, self.temperature)
        return np.exp(self.log_probabilities)

    @property
    def flags(self) -> several.Flags:
        """[rows, labels] the labels that a multi_label model gives: those more probable than not."""
        return self.logits > 0

    @property
    def numbers(self) -> Floats:
        """[rows] the numbers that a regression answers."""
        return self.logits[:, 0]

    def moments(self, labels: Gold) -> Moments:
        """Score the answers of any task but single_label."""
        labels = self.view(labels)
        if isinstance(labels, GoldTags | GoldAnswers):
            return labels.moments(self.logits)
        if self.task == "multi_label":
            return several.moments(labels, self.flags)
        return numbers.moments(labels, self.numbers)

    def reliability(self, labels: Gold, bins: int) -> Reliability:
        """Compare confidence with accuracy after calibration; for entities, token by token."""
        labels = self.view(labels)
        if isinstance(labels, GoldTags):
            return metrics.reliability(labels.token_classes, self.probabilities, bins)
        assert not isinstance(labels, GoldAnswers)
        if self.task == "multi_label":
            return several.reliability(labels, self.probabilities, bins)
        return metrics.reliability(labels, self.probabilities, bins)


def score(labels: Gold, answers: Answers, settings: Evaluate) -> dict[str, float | int]:
    """Compute one model's entry of metrics.json, without its speed.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        answers: the model's logits on those rows.
        settings: level of the intervals, resamples of those that are bootstrapped, bins of the calibration error.
    """
    labels = answers.view(labels)
    if not isinstance(labels, GoldTags | GoldAnswers) and answers.task == "single_label":
        scores = _class_scores(labels, answers, settings)
    else:
        scores = _scores(answers.moments(labels), settings)
    if isinstance(labels, GoldTags):
        scores |= labels.library_scores(answers.logits)
    if answers.task not in ("regression", "question_answering"):
        ece = answers.reliability(labels, settings.calibration_bins).ece
        scores |= {"ece": ece, "temperature": answers.temperature}
    scores |= {"parameters": answers.parameters, "megabytes": answers.file_bytes / 1e6}
    return scores | ({"members": answers.members} if answers.members > 1 else {})


def _class_scores(labels: Ints, answers: Answers, settings: Evaluate) -> dict[str, float | int]:
    correct = int((answers.predictions == labels).sum())
    low, high = wilson_interval(correct, len(labels), settings.confidence)
    return {
        "accuracy": metrics.accuracy(labels, answers.predictions),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": metrics.macro_f1(labels, answers.predictions),
    }


def _scores(moments: Moments, settings: Evaluate) -> dict[str, float | int]:
    """Return scores with bootstrap intervals. Their seed is fixed, so that numbers of projects can be compared."""
    scores: dict[str, float | int] = {}
    intervals = moments.intervals(replicates=settings.bootstrap, confidence=settings.confidence, seed=0)
    for name, value in moments.values.items():
        low, high = intervals[name]
        scores |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return scores


def compare(
    labels: Gold, models: Mapping[str, Answers], candidate: str, settings: Evaluate, *, seed: int
) -> dict[str, Any]:
    """Compute `comparison` of metrics.json, without the speed-up: the candidate against teacher, control and baseline.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        models: name -> answers; holds `teacher`, `control`, the candidate and, where the task has one, the baseline.
        candidate: name of the model that ships.
        settings: level of the interval and resamples of the bootstrap.
        seed: seed of the bootstrap.
    """
    student = models[candidate]
    teacher = models["teacher"]
    control = _compare_pair(labels, student, models["control"], settings, seed)
    comparison: dict[str, Any] = fidelity(teacher, student, labels=labels) | {
        "gain_over_control": control.difference,
        "control": control.to_json(),
    }
    if BASELINE in models:
        comparison[BASELINE] = _compare_pair(labels, student, models[BASELINE], settings, seed).to_json()
    teacher_score = score_value(labels, teacher)
    if teacher_score > 0:  # a ratio to zero is left out, and a missing number fails its gate
        comparison["teacher_ratio"] = score_value(labels, student) / teacher_score
    return comparison


def score_value(labels: Gold, answers: Answers) -> float:
    """Compute the task's score."""
    scoring = SCORINGS[answers.task]
    labels = answers.view(labels)
    if isinstance(labels, GoldTags | GoldAnswers):
        return labels.moments(answers.logits).values[scoring.key]
    return scoring.score(answers.logits, labels)


def _compare_pair(labels: Gold, student: Answers, rival: Answers, settings: Evaluate, seed: int) -> Comparison:
    options: dict[str, Any] = {"replicates": settings.bootstrap, "confidence": settings.confidence, "seed": seed}
    if not isinstance(labels, GoldTags | GoldAnswers) and student.task == "single_label":
        return paired_bootstrap(labels, student.predictions, rival.predictions, **options)
    return compare_scores([student.moments(labels)], [rival.moments(labels)], SCORINGS[student.task].key, **options)


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
    agreement = SCORINGS[student.task].agreement(teacher.logits, student.logits)
    if student.task == "regression":
        difference = teacher.numbers.astype(np.float64) - student.numbers
        return {"correlation": agreement, "rmse": float(np.sqrt(np.square(difference).mean()))}
    if student.task == "multi_label":
        kl = several.divergence(teacher.logits / teacher.temperature, student.logits / student.temperature)
    elif student.task == "question_answering":
        kl = float(np.mean([_span_kl(*window) for window in zip(teacher.logits, student.logits, strict=True)]))
    else:
        kl = metrics.kl_divergence(teacher.log_probabilities, student.log_probabilities)
    return {"agreement": agreement, "kl": kl}


def _restrict_to_shared_units(labels: GoldTags, teacher: Answers, student: Answers) -> tuple[Answers, Answers]:
    """Keep both models' answers about the units for which each has a token of its own."""
    teacher_units = teacher.view(labels).visibility == OWN
    student_units = student.view(labels).visibility == OWN
    shared = teacher_units & student_units
    return (
        replace(teacher, logits=teacher.logits[shared[teacher_units]], own_gold=None),
        replace(student, logits=student.logits[shared[student_units]], own_gold=None),
    )


def _span_kl(teacher: Floats, student: Floats) -> float:
    """Return the mean over start and end of KL(teacher || student) over a window's tokens, of [tokens, 2] logits."""
    return metrics.kl_divergence(metrics.log_softmax(teacher.T), metrics.log_softmax(student.T))
