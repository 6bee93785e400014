"""Evidence of the evaluate stage beyond one score: slices, behavioural tests and abstention."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json
from potstill.config.evaluation_params import Abstention, Evaluate
from potstill.evaluation.abstention import AbstentionReport, report_abstention
from potstill.evaluation.behaviour.judging import Result as TestResult
from potstill.evaluation.behaviour.judging import Settings, run_tests
from potstill.evaluation.behaviour.predicting import (
    Predict,
    Predictions,
    from_pipeline,
    from_probabilities,
    from_student,
)
from potstill.evaluation.behaviour.suite import Suite, make_suite
from potstill.evaluation.contenders import teacher_pipeline
from potstill.evaluation.domain_shift import flat_shift
from potstill.evaluation.gold import read_gold, served_answers
from potstill.evaluation.metrics_reading import with_bounds
from potstill.evaluation.naming import MODELS, SHIPPED
from potstill.evaluation.slices import find_slices, judge_slices
from potstill.evaluation.summary import Answers, Gold
from potstill.inference.runtime import ModelCard, Student, Text
from potstill.kinds.definitions.task_kinds import KINDS
from tasks.learning import read_temperature, teacher_text_logits, trained_controls
from tasks.stage import Stage

FROZEN = "test.parquet"
DEV = "dev.parquet"
_NOT_IN_A_NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Evidence:
    """Further sections of metrics.json, and the texts on which behavioural tests failed, which are no numbers.

    Attributes:
        metrics: `slices`, `behaviour` and, where params ask for it, `abstention`.
        failures: test -> model -> examples of failures.
        abstention: what the threshold brings, in a sentence; empty where params ask for none.
    """

    metrics: dict[str, Any]
    failures: dict[str, dict[str, list[dict[str, Any]]]]
    abstention: str = ""


def gather(
    stage: Stage, texts: Sequence[Text], gold: Gold, answers: Mapping[str, Answers], shipped: Student
) -> Evidence:
    """Compare models on slices, run the behavioural tests, and find the threshold below which not to answer.

    Args:
        stage: evaluate.
        texts: of the test split.
        gold: its gold labels.
        answers: name of a model -> its answers to them.
        shipped: the served candidate.
    """
    settings = stage.params(Evaluate)
    card = shipped.card
    candidate = SHIPPED[card.variant]
    rows = pq.read_table(stage.deps["prepared"] / FROZEN)
    slices = find_slices(rows, settings.slices, KINDS[card.kind], card.labels)
    rivals = ("teacher", *trained_controls(stage))
    report = judge_slices(slices, gold, answers, candidate, rivals, settings, seed=stage.project.seed)
    suite, results = _behaviour(stage, texts, gold, shipped)
    metrics: dict[str, Any] = {"slices": report.to_json(), "behaviour": _rates(suite, results)}
    sentence = ""
    if settings.abstention is not None:
        abstention = _abstention(stage, settings.abstention, shipped, (gold, answers[candidate]))
        metrics["abstention"] = abstention.to_json()
        sentence = abstention.sentence()
    return Evidence(metrics, {result.name: _failures(result) for result in results}, sentence)


# --- behaviour --------------------------------------------------------------------------------------------------------


def _behaviour(stage: Stage, texts: Sequence[Text], gold: Any, shipped: Student) -> tuple[Suite, list[TestResult]]:
    """Run the tests that params name on the served candidate and on the teacher."""
    settings = stage.params(Evaluate)
    card = shipped.card
    names = [card.labels[index] for index in gold] if card.form == "class" else None
    suite = make_suite(
        settings.behaviour, card.kind, card.labels, texts, names, pair=card.pair, seed=stage.project.seed
    )
    judging = Settings(
        card.kind,
        card.labels,
        settings.behaviour.tolerance,
        settings.confidence,
        settings.bootstrap,
        stage.project.seed,
        unit=(float(np.std(gold)) or 1.0) if card.form == "number" else 1.0,
        examples=settings.behaviour.examples,
    )
    candidate = SHIPPED[card.variant]
    models = {candidate: from_student(shipped, MODELS[candidate]), "teacher": _teacher(stage, card)}
    timed = {name: _timed(stage, predict) for name, predict in models.items()}
    return suite, run_tests(suite.tests, timed, candidate, judging)


def _timed(stage: Stage, predict: Predict) -> Predict:
    """Count the time of a model's answers as inference."""

    def timed(texts: Sequence[Text]) -> Predictions:
        with stage.work("inference"):
            return predict(texts)

    return timed


def _teacher(stage: Stage, card: ModelCard) -> Predict:
    """Wrap the teacher as `Predict`; of several models, the first one answers where answers are spans."""
    kind = KINDS[card.kind]
    folder = stage.deps["teacher"]
    if kind.marks_spans:
        return from_pipeline(teacher_pipeline(folder, card.max_length, card.kind, card.stride), kind.form)
    temperature = read_temperature(folder)

    def scores(texts: Sequence[Text]) -> Any:
        logits = teacher_text_logits(stage, texts)
        return logits if kind.form == "number" else kind.evaluated_probabilities(logits, temperature)

    return from_probabilities(scores, card.kind, card.labels, MODELS["teacher"])


def _rates(suite: Suite, results: Sequence[TestResult]) -> dict[str, Any]:
    """Return `behaviour` of metrics.json: everything but the examples."""
    tests = {}
    for result in results:
        values = result.to_json()
        for numbers in values["models"].values():
            del numbers["examples"]
        tests[values.pop("name")] = values
    return {"language": suite.language, "tests": tests}


def _failures(result: TestResult) -> dict[str, list[dict[str, Any]]]:
    return {name: numbers["examples"] for name, numbers in result.to_json()["models"].items()}


# --- abstention -------------------------------------------------------------------------------------------------------


def _abstention(stage: Stage, settings: Abstention, shipped: Student, test: tuple[Gold, Answers]) -> AbstentionReport:
    """Find the threshold on dev, which the served model answers here, and check it on test."""
    texts, gold = read_gold(stage.deps["prepared"] / DEV, shipped)
    with stage.work("inference"):
        dev = served_answers(shipped, texts, gold, MODELS[SHIPPED[shipped.card.variant]])
    return report_abstention((gold, dev), test, settings, choices=_choices(stage))


def _choices(stage: Stage) -> int:
    """Count the models among which dev chose the shipped one: each choice of a stage leads to other models after it."""
    manifests = [read_json(stage.deps[out] / MANIFEST) for out in ("teacher", "student", "export")]
    numbers: list[int] = [number for manifest in manifests for number in manifest["about"]["choices"].values()]
    return math.prod(numbers)


# --- numbers for MLflow -----------------------------------------------------------------------------------------------


def flat_metrics(metrics: Mapping[str, Any], candidate: str) -> dict[str, float]:
    """Flatten the sections for MLflow, whose names hold letters, digits, `_`, `-` and `.` here."""
    numbers: dict[str, float] = {}
    for name, value in _numbers(metrics, candidate):
        legal = _NOT_IN_A_NAME.sub("_", name)[:200]
        # Two names of slices may differ in signs alone.
        unique = next(option for option in _numbered(legal) if option not in numbers)
        if value is not None:
            numbers[unique] = float(value)
    return numbers


def _numbered(name: str) -> Iterator[str]:
    """Yield a name, then the same name with numbers from 2 on."""
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _numbers(metrics: Mapping[str, Any], candidate: str) -> Iterator[tuple[str, float | None]]:
    if "shift" in metrics:
        yield from flat_shift(metrics["shift"])
    slices = metrics["slices"]
    losses = [rival for part in slices["slices"] for rival in part["rivals"].values() if rival["outcome"] == "LOSES"]
    yield "slices_lost", len(losses)
    for part in slices["slices"]:
        prefix = f"slice_{part['name']}"
        yield f"{prefix}_rows", part["rows"]
        for key in ("score", "low", "high"):
            yield f"{prefix}_{key}", part[key]
        for rival, numbers in part["rivals"].items():
            yield f"{prefix}_over_{rival}", numbers["difference"]
    for test, result in metrics["behaviour"]["tests"].items():
        for name, numbers in result["models"].items():
            model = "" if name == candidate else f"{name}_"
            for key in with_bounds("failure_rate"):
                yield f"behaviour_{test}_{model}{key}", numbers[key]
    abstention = metrics.get("abstention")
    if abstention is not None:
        yield "abstention_aurc", abstention["curve"]["aurc"]
        yield "abstention_threshold", (abstention["threshold"] or {}).get("confidence")
        for key in ("coverage", "right", "low", "high"):
            yield f"abstention_{key}", (abstention["test"] or {}).get(key)
