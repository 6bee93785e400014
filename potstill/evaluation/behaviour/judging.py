"""Runs behavioural tests on several models and counts their failures, with intervals and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.evaluation.behaviour.cases import BehaviourTest, Case, Direction, Kind
from potstill.evaluation.behaviour.predicting import Predict, Predictions
from potstill.kinds.definitions.kind import Form
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.scores.metrics import Doubles
from potstill.scores.statistics import Comparison, bootstrap, wilson_interval

if TYPE_CHECKING:
    from potstill.inference.runtime import Label, Text


# 0.5 - 0.4 is below 0.1 in floating point.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Settings:
    """The settings by which answers are judged.

    Attributes:
        task: kind of task.
        labels: the models' labels, in the order of their scores.
        tolerance: `evaluate.behaviour.tolerance`.
        unit: regression: standard deviation of the test split's numbers; 1 otherwise.
        confidence: level of the intervals.
        replicates: resamples of the paired bootstrap.
        seed: seed of the bootstrap.
        examples: failures to keep as examples.
    """

    task: TaskKind
    labels: Sequence[Label]
    tolerance: float
    confidence: float
    replicates: int
    seed: int
    unit: float = 1.0
    examples: int = 5

    @property
    def form(self) -> Form:
        """The form of the answers."""
        return KINDS[self.task].form


@dataclass(frozen=True)
class Example:
    """A failure.

    Attributes:
        original: the text before the change; None for an MFT.
        text: the text that the model failed on.
        expected: what the test expects, as in `Case`.
        before: answer to the original; None for an MFT.
        after: answer to the text.
        scores_before: probabilities of the original, or its number; empty for an MFT, and for places in a text.
        scores_after: the same of the text.
        change: how far the answer moved: the largest change of a probability, or of DIR that of the label; for numbers
            in standard deviations; for entities, how many differ. For an MFT, the distance from the expected answer.
    """

    original: Text | None
    text: Text
    expected: Any
    before: Any
    after: Any
    scores_before: list[float]
    scores_after: list[float]
    change: float


@dataclass(frozen=True)
class Failures:
    """The failures of one model in one test.

    Attributes:
        rows: cases that were judged; DIR leaves out those whose probability has no room for the expected change.
        failures: cases that failed.
        failure_rate: their share; None without cases.
        failure_rate_low: lower end of Wilson's interval; None without cases.
        failure_rate_high: upper end.
        examples: failures with the largest change.
    """

    rows: int
    failures: int
    failure_rate: float | None
    failure_rate_low: float | None
    failure_rate_high: float | None
    examples: list[Example]


@dataclass(frozen=True)
class Result:
    """One test on all models.

    Attributes:
        name: name of the test.
        kind: INV, DIR or MFT.
        direction: of DIR, where the probability has to move.
        models: name of a model -> its failures.
        gains: name of another model -> pass rate of the candidate minus that model's, on the cases judged for both.
    """

    name: str
    kind: Kind
    direction: Direction | None
    models: dict[str, Failures]
    gains: dict[str, Comparison]

    def to_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Judgement:
    """Whether a case failed, how far the answer moved, and how bad that is."""

    failed: bool
    change: float
    severity: float


@dataclass(frozen=True)
class _Answer:
    """One answer of `Predictions`."""

    answer: Any
    scores: Doubles


def run_tests(
    tests: Sequence[BehaviourTest], models: Mapping[str, Predict], candidate: str, settings: Settings
) -> list[Result]:
    """Run tests on models. Each model answers each text once.

    Args:
        tests: the tests.
        models: name -> model; holds the candidate.
        candidate: the model that the others are compared with.
        settings: how answers are judged.
    """
    texts = list(dict.fromkeys(chain.from_iterable(_texts(case) for test in tests for case in test.cases)))
    indices = {text: index for index, text in enumerate(texts)}
    predictions = {name: predict(texts) for name, predict in models.items()} if texts else {}

    def result(test: BehaviourTest) -> Result:
        judgements = {
            name: [_judge(test, case, _answers(case, indices, predictions[name]), settings) for case in test.cases]
            for name in models
        }
        failures = {
            name: _failures(test, judgements[name], indices, predictions.get(name), settings) for name in models
        }
        gains = {
            name: gain
            for name in models
            if name != candidate and (gain := _gain(judgements[candidate], judgements[name], settings)) is not None
        }
        return Result(test.name, test.kind, test.direction, failures, gains)

    return [result(test) for test in tests]


def _texts(case: Case) -> list[Text]:
    return [case.text] if case.changed is None else [case.text, case.changed]


def _answers(case: Case, indices: Mapping[Text, int], predictions: Predictions) -> list[_Answer]:
    """Return the answers to the case's texts, the changed one last."""
    rows = [indices[text] for text in _texts(case)]
    return [_Answer(predictions.answers[row], predictions.scores[row]) for row in rows]


def _failures(
    test: BehaviourTest,
    judgements: Sequence[_Judgement | None],
    indices: Mapping[Text, int],
    predictions: Predictions | None,
    settings: Settings,
) -> Failures:
    judged = [(case, judgement) for case, judgement in zip(test.cases, judgements, strict=True) if judgement]
    failed = [(case, judgement) for case, judgement in judged if judgement.failed]
    if not judged or predictions is None:
        return Failures(0, 0, None, None, None, [])
    low, high = wilson_interval(len(failed), len(judged), settings.confidence)
    worst = sorted(failed, key=lambda pair: pair[1].severity, reverse=True)[: settings.examples]
    examples = [_example(case, judgement, _answers(case, indices, predictions)) for case, judgement in worst]
    return Failures(len(judged), len(failed), len(failed) / len(judged), low, high, examples)


def _example(case: Case, judgement: _Judgement, answers: Sequence[_Answer]) -> Example:
    before = answers[0] if case.changed is not None else None
    after = answers[-1]
    return Example(
        original=case.text if case.changed is not None else None,
        text=case.text if case.changed is None else case.changed,
        expected=list(case.expected) if isinstance(case.expected, tuple) else case.expected,
        before=before.answer if before is not None else None,
        after=after.answer,
        scores_before=before.scores.tolist() if before is not None else [],
        scores_after=after.scores.tolist(),
        change=judgement.change,
    )


def _gain(
    candidate: Sequence[_Judgement | None], rival: Sequence[_Judgement | None], settings: Settings
) -> Comparison | None:
    """Compare the pass rates of two models on the cases judged for both; None without such cases."""
    gains = [
        int(second.failed) - int(first.failed)
        for first, second in zip(candidate, rival, strict=True)
        if first and second
    ]
    if not gains:
        return None
    return bootstrap(
        np.array([gains]), replicates=settings.replicates, confidence=settings.confidence, seed=settings.seed
    )


# --- one case ---------------------------------------------------------------------------------------------------------


def _judge(test: BehaviourTest, case: Case, answers: Sequence[_Answer], settings: Settings) -> _Judgement | None:
    """Judge the answers to a case; None if its probability has no room for the expected change."""
    if test.kind == "MFT":
        return _judge_answer(case, answers[0], settings)
    before, after = answers
    if test.kind == "DIR":
        return _judge_direction(case, before, after, 1 if test.direction == "rises" else -1, settings)
    if settings.form == "number":
        change = abs(after.answer - before.answer) / settings.unit
        return _Judgement(change > settings.tolerance + _ROUNDING, change, change)
    change = _distance(before, after)
    return _Judgement(before.answer != after.answer, change, change)


def _distance(before: _Answer, after: _Answer) -> float:
    """Compute the largest change of a probability; of places in a text, how many only one answer has."""
    if before.scores.size:
        return float(np.abs(after.scores - before.scores).max())
    if before.answer is None or after.answer is None or not isinstance(next(iter(before.answer), None), list):
        return float(before.answer != after.answer)
    return float(len(set(map(tuple, before.answer)) ^ set(map(tuple, after.answer))))


def _judge_direction(case: Case, before: _Answer, after: _Answer, sign: int, settings: Settings) -> _Judgement | None:
    if settings.form == "number":
        change = (after.answer - before.answer) / settings.unit
    else:
        column = [str(label) for label in settings.labels].index(str(case.expected))
        probability = float(before.scores[column])
        room = 1 - probability if sign > 0 else probability
        if room < settings.tolerance - _ROUNDING:
            return None
        change = float(after.scores[column]) - probability
    return _Judgement(sign * change < settings.tolerance - _ROUNDING, change, -sign * change)


def _judge_answer(case: Case, after: _Answer, settings: Settings) -> _Judgement:
    if settings.form == "number":
        assert isinstance(case.expected, int | float)
        distance = abs(after.answer - case.expected) / settings.unit
        return _Judgement(distance > settings.tolerance + _ROUNDING, distance, distance)
    exact = isinstance(case.expected, tuple)
    labels = case.expected if isinstance(case.expected, tuple) else (case.expected,)
    expected = set(map(str, labels))
    answered = {str(label) for label in (after.answer if settings.form == "labels" else [after.answer])}
    failed = answered != expected if exact or settings.form == "class" else not expected <= answered
    errors = [
        abs(float(str(label) in expected) - score)
        for label, score in zip(settings.labels, after.scores.tolist(), strict=True)
        if exact or str(label) in expected
    ]
    return _Judgement(failed, max(errors), max(errors))
