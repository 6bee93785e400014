"""From logits to the numbers of reports/metrics.json. Pure: answers come in, plain values go out."""

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
from potstill.evaluation.marks import GoldAnswers, GoldTags
from potstill.evaluation.naming import BASELINE
from potstill.inference.probabilities import sigmoid
from potstill.scores import metrics, numbers, several
from potstill.scores.metrics import Doubles, Floats, Ints, Labels, Reliability
from potstill.scores.scoring import SCORINGS
from potstill.scores.statistics import Comparison, Moments, compare_scores, paired_bootstrap, wilson_interval

# Gold labels [rows, ...] in the task's form, or what places in texts are judged by.
Gold = Labels | GoldTags | GoldAnswers
View = TypeVar("View", bound=Gold)


@dataclass(frozen=True)
class Answers:
    """What one model said about the test split.

    Attributes:
        logits: [rows, labels], finite; of entities [answers, tags] of the tokens that answer; of questions [windows]
            objects [tokens, 2].
        temperature: divides the logits before they become probabilities; 1 for a model that was not calibrated.
        parameters: weights of the model, counted.
        file_bytes: size of the file that holds them.
        task: what the logits are: of one class of several, of several labels, a number, entities, or answers.
        members: models whose answers the logits are the mean of; weights, file and speed are one model's.
        own: of entities and questions, the gold labels as the model's own tokens or windows see them, where these are
            not those of the others.
    """

    logits: npt.NDArray[Any]
    temperature: float
    parameters: int
    file_bytes: int
    task: TaskKind = "single_label"
    members: int = 1
    own: GoldTags | GoldAnswers | None = None

    def view(self, labels: View) -> View:
        """The gold labels as the model sees them."""
        return labels if self.own is None else cast("View", self.own)

    @cached_property
    def predictions(self) -> Ints:
        """[rows] the most probable class."""
        found: Ints = self.logits.argmax(axis=1)
        return found

    @cached_property
    def log_probabilities(self) -> Doubles:
        """[rows, labels] after calibration."""
        return metrics.log_softmax(self.logits, self.temperature)

    @property
    def probabilities(self) -> Doubles:
        """[rows, labels] after calibration; of several labels, each by itself."""
        if self.task == "multi_label":
            return sigmoid(self.logits, self.temperature)
        return np.exp(self.log_probabilities)

    @property
    def flags(self) -> several.Flags:
        """[rows, labels] which of several labels hold: those more probable than not."""
        return self.logits > 0

    @property
    def numbers(self) -> Floats:
        """[rows] the answers of a regression."""
        return self.logits[:, 0]

    def moments(self, labels: Gold) -> Moments:
        """The scores of several labels, of numbers, of entities or of answers."""
        labels = self.view(labels)
        if isinstance(labels, GoldTags | GoldAnswers):
            return labels.moments(self.logits)
        if self.task == "multi_label":
            return several.moments(labels, self.flags)
        return numbers.moments(labels, self.numbers)

    def reliability(self, labels: Gold, bins: int) -> Reliability:
        """Confidence against accuracy after calibration; of entities, of every token that answers."""
        labels = self.view(labels)
        if isinstance(labels, GoldTags):
            return metrics.reliability(labels.asked, self.probabilities, bins)
        assert not isinstance(labels, GoldAnswers)
        if self.task == "multi_label":
            return several.reliability(labels, self.probabilities, bins)
        return metrics.reliability(labels, self.probabilities, bins)


def score(labels: Gold, answers: Answers, settings: Evaluate) -> dict[str, float | int]:
    """One model's entry of metrics.json, without its speed.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        answers: the model's logits on those rows.
        settings: level of the intervals, resamples of those that are bootstrapped, bins of the calibration error.
    """
    labels = answers.view(labels)
    found = (
        _class_scores(labels, answers, settings)
        if not isinstance(labels, GoldTags | GoldAnswers) and answers.task == "single_label"
        else _scores(answers.moments(labels), settings)
    )
    if isinstance(labels, GoldTags):
        found |= labels.library_scores(answers.logits)
    if answers.task not in ("regression", "question_answering"):
        found |= {"ece": answers.reliability(labels, settings.calibration_bins).ece, "temperature": answers.temperature}
    found |= {"parameters": answers.parameters, "megabytes": answers.file_bytes / 1e6}
    return found | ({"members": answers.members} if answers.members > 1 else {})


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
    """Scores with bootstrap intervals; their draws do not depend on the project, so that numbers can be compared."""
    found: dict[str, float | int] = {}
    intervals = moments.intervals(replicates=settings.bootstrap, confidence=settings.confidence, seed=0)
    for name, value in moments.values.items():
        low, high = intervals[name]
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found


def compare(
    labels: Gold, models: Mapping[str, Answers], candidate: str, settings: Evaluate, *, seed: int
) -> dict[str, Any]:
    """`comparison` of metrics.json, without the speed-up: the candidate against teacher, control and baseline.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        models: name -> answers; holds `teacher`, `control`, the candidate and, where the task has one, the baseline.
        candidate: name of the model that ships.
        settings: level of the interval and resamples of the bootstrap.
        seed: of the bootstrap.
    """
    ours, teacher, control = models[candidate], models["teacher"], models["control"]
    against = _against(labels, ours, control, settings, seed)
    found: dict[str, Any] = likeness(teacher, ours, labels=labels) | {
        "gain_over_control": against.difference,
        "control": against.to_json(),
    }
    if BASELINE in models:
        found[BASELINE] = _against(labels, ours, models[BASELINE], settings, seed).to_json()
    taught = score_value(labels, teacher)
    if taught > 0:  # a ratio to nothing is absent, and a missing number fails its gate
        found["teacher_ratio"] = score_value(labels, ours) / taught
    return found


def score_value(labels: Gold, answers: Answers) -> float:
    """The task's score."""
    scoring, labels = SCORINGS[answers.task], answers.view(labels)
    if isinstance(labels, GoldTags | GoldAnswers):
        return labels.moments(answers.logits).values[scoring.key]
    return scoring.score(answers.logits, labels)


def _against(labels: Gold, ours: Answers, theirs: Answers, settings: Evaluate, seed: int) -> Comparison:
    options: dict[str, Any] = {"replicates": settings.bootstrap, "confidence": settings.confidence, "seed": seed}
    if not isinstance(labels, GoldTags | GoldAnswers) and ours.task == "single_label":
        return paired_bootstrap(labels, ours.predictions, theirs.predictions, **options)
    return compare_scores([ours.moments(labels)], [theirs.moments(labels)], SCORINGS[ours.task].key, **options)


def likeness(teacher: Answers, ours: Answers, *, labels: Gold | None = None) -> dict[str, float]:
    """How near a student's answers are to the teacher's: how alike they are first, then how far apart.

    Gold answers, where given, only say where spans are: then answers are compared as texts, else window by window.
    """
    if isinstance(labels, GoldAnswers):
        theirs, mine = (one.view(labels).answers(one.logits) for one in (teacher, ours))
        return {"agreement": float(np.mean([first == second for first, second in zip(theirs, mine, strict=True)]))}
    if isinstance(labels, GoldTags) and (teacher.own, ours.own) != (None, None):
        teacher, ours = _of_the_same_units(labels, teacher, ours)
    alike = SCORINGS[ours.task].agreement(teacher.logits, ours.logits)
    if ours.task == "regression":
        apart = teacher.numbers.astype(np.float64) - ours.numbers
        return {"correlation": alike, "rmse": float(np.sqrt(np.square(apart).mean()))}
    if ours.task == "multi_label":
        kl = several.divergence(teacher.logits / teacher.temperature, ours.logits / ours.temperature)
    elif ours.task == "question_answering":
        kl = float(np.mean([_span_kl(*both) for both in zip(teacher.logits, ours.logits, strict=True)]))
    else:
        kl = metrics.kl_divergence(teacher.log_probabilities, ours.log_probabilities)
    return {"agreement": alike, "kl": kl}


def _of_the_same_units(labels: GoldTags, teacher: Answers, ours: Answers) -> tuple[Answers, Answers]:
    """Both models' answers about the units that each sees by a token of its own."""
    sights = [one.view(labels).seen == OWN for one in (teacher, ours)]
    both = sights[0] & sights[1]
    first, second = (
        replace(one, logits=one.logits[both[seen]], own=None) for one, seen in zip((teacher, ours), sights, strict=True)
    )
    return first, second


def _span_kl(teacher: Floats, ours: Floats) -> float:
    """Mean over start and end of KL(teacher || student) over a window's tokens, of [tokens, 2] logits."""
    return metrics.kl_divergence(metrics.log_softmax(teacher.T), metrics.log_softmax(ours.T))
