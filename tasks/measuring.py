"""Measures and judges the students of a search on dev, in their shipped form, and compares them with the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from potstill.artifacts import MANIFEST, read_json
from potstill.config.params import Params
from potstill.evaluation.baseline import fit_baseline
from potstill.evaluation.contenders import teacher_pipeline
from potstill.evaluation.gates import Verdict, judge
from potstill.evaluation.gold import read_gold, read_texts, served_answers, student_logits
from potstill.evaluation.latency import Speed, measure_side_by_side
from potstill.evaluation.naming import BASELINE, QUANTIZED, SHIPPED
from potstill.evaluation.summary import Answers, Gold, compare_pair, fidelity, score, teacher_share
from potstill.evaluation.teacher_forms import add_advantages
from potstill.inference.profile import answer_all
from potstill.inference.runtime import MODEL, Student, Text
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.models.loading import load_classifier
from potstill.scores.metrics import require_finite
from potstill.studies.pareto import Point
from potstill.studies.space import Choice
from tasks.learning import open_tokens, teacher_logits, teacher_members
from tasks.stage import Stage, load_stage
from tasks.views import teachers_view

DEV, TRAIN = "dev.parquet", "train.parquet"
# Gates that are off in a search, since it trains no controls, tests no behaviour and compares no slices.
WITHOUT_CONTROLS: dict[str, Any] = {
    "min_gain_over_control": None,
    "min_gain_over_control_upper": None,
    "must_beat": [],
    "min_slice_score": None,
    "max_slice_loss": None,
    "max_behaviour_failure": {},
    "min_coverage": None,
}
# What needs no student -> name and kind of its point.
_POINTS = {"teacher": ("teacher", "teacher"), QUANTIZED: ("teacher INT8", "teacher"), BASELINE: ("TF-IDF", BASELINE)}
# Answers texts.
Call = Callable[[list[Text]], object]


@dataclass(frozen=True)
class BuiltStudent:
    """A student ready to be measured.

    Attributes:
        kind: see `Point`.
        folder: holds `student/` and `serving/`.
        run_arguments: see `Point`.
        sections: see `Point`.
        choice: the trial's; None for a student of no trial.
    """

    kind: str
    folder: Path
    run_arguments: list[str]
    sections: dict[str, Any]
    choice: Choice | None = None

    @property
    def serving(self) -> Path:
        """Its serving folder."""
        return self.folder / "serving"


def measure(
    built: Mapping[str, BuiltStudent], params: Params, stage: Stage, quantized: Path
) -> tuple[list[Point], int]:
    """Return the points of what needs no student and of each student, and the number of dev rows.

    What needs no student is the teacher, as it is and quantized, and TF-IDF with a linear model.

    Args:
        built: name -> student.
        params: limits of the gates, and how to time.
        stage: the distill stage, for its teacher and its tokens.
        quantized: the out of the quantize stage.
    """
    path = load_stage("prepare", params).outs["prepared"] / DEV
    students = {name: Student(student.serving) for name, student in built.items()}
    # A search changes no tokenizer, so any student reads the texts as all do.
    card = next(iter(students.values())).card
    texts, gold = read_gold(path, next(iter(students.values())))
    quantized_facts = read_json(quantized / MANIFEST)["about"]
    others = {"teacher": _teacher_answers(stage, path)}
    calls: dict[str, Call] = {
        "teacher": teacher_pipeline(stage.deps["teacher"], card.max_length, card.kind, card.stride)
    }
    if "absent" not in quantized_facts:
        teacher = Student(quantized)
        others[QUANTIZED] = _quantized_answers(teacher, path, quantized, quantized_facts["parameters"])
        calls[QUANTIZED] = partial(answer_all, teacher)
    if not KINDS[card.kind].marks_spans:
        baseline = fit_baseline(*read_texts(path.with_name(TRAIN)), card.kind, len(card.labels))
        others[BASELINE] = baseline.answers(texts, card.kind)
        calls[BASELINE] = baseline.logits
    calls |= {name: partial(answer_all, student) for name, student in students.items()}
    speeds = _speeds(calls, texts, params)
    numbers = {name: score(gold, answers, params.evaluate) | asdict(speeds[name]) for name, answers in others.items()}
    points = [_point(*_POINTS[name], numbers[name], card.kind) for name in others]
    for name, student in students.items():
        answers = _answers(built[name], student, texts, gold)
        measured = score(gold, answers, params.evaluate) | asdict(speeds[name])
        comparison = _compare(gold, others, answers, params)
        verdict = _judge(student, measured, numbers, comparison, quantized_facts, params)
        flat = {key: value for key, value in comparison.items() if not isinstance(value, dict)}
        point = _point(name, built[name].kind, {**measured, **flat, "variant": student.card.variant}, card.kind)
        points.append(
            replace(
                point,
                choice=built[name].choice,
                run_arguments=built[name].run_arguments,
                sections=built[name].sections,
                verdict=verdict,
                folder=built[name].serving.as_posix(),
            )
        )
    return points, len(gold)


def _judge(
    student: Student,
    measured: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
    comparison: Mapping[str, Any],
    quantized_facts: Mapping[str, Any],
    params: Params,
) -> Verdict:
    """Judge a student by the gates that need no control."""
    variant = SHIPPED[student.card.variant]
    metrics: dict[str, Any] = {
        "shipped": student.card.variant,
        "quantized_teacher": quantized_facts,
        "models": {**others, variant: measured},
        "comparison": comparison,
    }
    add_advantages(metrics, variant)
    return judge(metrics, params.gate.model_copy(update=WITHOUT_CONTROLS), None, student.card.kind)


def _teacher_answers(stage: Stage, path: Path) -> Answers:
    folder = stage.deps["teacher"]
    return Answers(
        teacher_logits(stage, "dev"),
        1.0,
        load_classifier(folder).num_parameters(),
        sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        open_tokens(stage).task,
        len(teacher_members(stage)),
        teachers_view(stage, path),
    )


def _quantized_answers(teacher: Student, path: Path, folder: Path, parameters: int) -> Answers:
    texts, gold = read_gold(path, teacher)
    size = (folder / MODEL).stat().st_size
    return served_answers(teacher, texts, gold, str(folder), parameters=parameters, file_bytes=size)


def _answers(built: BuiltStudent, student: Student, texts: Sequence[Text], gold: Gold) -> Answers:
    """Return a student's answers as it ships."""
    logits = student_logits(student, texts, gold)
    require_finite(logits, str(built.serving))
    parameters = load_classifier(built.folder / "student").num_parameters()
    size = (built.serving / MODEL).stat().st_size
    return Answers(logits, student.card.temperature, parameters, size, student.card.kind)


def _speeds(calls: Mapping[str, Call], texts: Sequence[Text], params: Params) -> dict[str, Speed]:
    return measure_side_by_side(
        calls,
        texts,
        latency_texts=params.evaluate.latency_texts,
        throughput_texts=params.evaluate.throughput_texts,
        rounds=params.evaluate.rounds,
    )


def _compare(gold: Gold, teachers: Mapping[str, Answers], student: Answers, params: Params) -> dict[str, Any]:
    """Compare a student with the teacher and, where there is one, the quantized teacher."""
    teacher = teachers["teacher"]
    comparison: dict[str, Any] = {**fidelity(teacher, student, labels=gold)}
    comparison |= teacher_share(gold, student, teacher, params.evaluate, params.project.seed)
    if QUANTIZED in teachers:
        pair = compare_pair(gold, student, teachers[QUANTIZED], params.evaluate, params.project.seed)
        comparison[QUANTIZED] = pair.to_json()
    return comparison


def _point(name: str, kind: str, numbers: dict[str, Any], task: TaskKind) -> Point:
    return Point(name, kind, numbers[KINDS[task].scoring.key], numbers["p50_ms"], numbers["megabytes"], numbers)
