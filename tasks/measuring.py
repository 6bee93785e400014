"""Measures and judges the students of a search on dev, in their shipped form, and compares them with the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from potstill.config.params import Params
from potstill.evaluation.contenders import teacher_pipeline
from potstill.evaluation.gates import Verdict, judge
from potstill.evaluation.gold import read_gold, student_logits
from potstill.evaluation.latency import Speed, measure_side_by_side
from potstill.evaluation.naming import SHIPPED
from potstill.evaluation.summary import Answers, Gold, fidelity, score, score_value
from potstill.inference.profile import answer_all
from potstill.inference.runtime import MODEL, ModelCard, Student, Text
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.models.loading import load_classifier
from potstill.scores.metrics import require_finite
from potstill.studies.pareto import Point
from potstill.studies.space import Choice
from tasks.learning import open_tokens, teacher_logits, teacher_members
from tasks.stage import Stage, load_stage
from tasks.views import teachers_view

DEV = "dev.parquet"
# Gates that are off in a search, since it trains no controls, tests no behaviour and compares no slices.
WITHOUT_CONTROLS: dict[str, Any] = {
    **{"min_gain_over_control": None, "min_gain_over_control_upper": None, "must_beat": []},
    **{"min_slice_score": None, "max_slice_loss": None, "max_behaviour_failure": {}, "min_coverage": None},
}


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


def measure(built: Mapping[str, BuiltStudent], params: Params, stage: Stage) -> tuple[list[Point], int]:
    """Return the points of the teacher and of each student, and the number of dev rows.

    Args:
        built: name -> student.
        params: limits of the gates, and how to time.
        stage: the distill stage, for its teacher and its tokens.
    """
    path = load_stage("prepare", params).outs["prepared"] / DEV
    students = {name: Student(student.serving) for name, student in built.items()}
    # A search changes no tokenizer, so any student reads the texts as all do.
    texts, gold = read_gold(path, next(iter(students.values())))
    speeds = _speeds(students, texts, params, stage.deps["teacher"])
    teacher_answers = _teacher_answers(stage, path)
    numbers = score(gold, teacher_answers, params.evaluate) | asdict(speeds["teacher"])
    points = [_point("teacher", "teacher", numbers, teacher_answers.task)]
    for name, student in students.items():
        answers = _answers(built[name], student, texts, gold)
        numbers = score(gold, answers, params.evaluate) | asdict(speeds[name])
        speedup = speeds[name].texts_per_second / speeds["teacher"].texts_per_second
        comparison = _compare(gold, teacher_answers, answers) | {"speedup": speedup}
        verdict = _judge(student.card, numbers, comparison, params)
        measured = {**numbers, **comparison, "variant": student.card.variant}
        point = _point(name, built[name].kind, measured, answers.task)
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


def _answers(built: BuiltStudent, student: Student, texts: Sequence[Text], gold: Gold) -> Answers:
    """Return a student's answers as it ships."""
    logits = student_logits(student, texts, gold)
    require_finite(logits, str(built.serving))
    parameters = load_classifier(built.folder / "student").num_parameters()
    size = (built.serving / MODEL).stat().st_size
    return Answers(logits, student.card.temperature, parameters, size, student.card.kind)


def _speeds(students: Mapping[str, Student], texts: Sequence[Text], params: Params, teacher: Path) -> dict[str, Speed]:
    card = next(iter(students.values())).card
    calls = {"teacher": teacher_pipeline(teacher, card.max_length, card.kind, card.stride)}
    return measure_side_by_side(
        calls | {name: partial(answer_all, student) for name, student in students.items()},
        texts,
        latency_texts=params.evaluate.latency_texts,
        throughput_texts=params.evaluate.throughput_texts,
        rounds=params.evaluate.rounds,
    )


def _compare(gold: Gold, teacher: Answers, student: Answers) -> dict[str, float]:
    comparison = fidelity(teacher, student, labels=gold)
    teacher_score = score_value(gold, teacher)
    if teacher_score > 0:  # a ratio to zero is left out, and a missing number fails its gate
        comparison["teacher_ratio"] = score_value(gold, student) / teacher_score
    return comparison


def _judge(card: ModelCard, numbers: Mapping[str, Any], comparison: Mapping[str, Any], params: Params) -> Verdict:
    metrics = {"shipped": card.variant, "models": {SHIPPED[card.variant]: numbers}, "comparison": comparison}
    return judge(metrics, params.gate.model_copy(update=WITHOUT_CONTROLS), None, card.kind)


def _point(name: str, kind: str, numbers: dict[str, Any], task: TaskKind) -> Point:
    return Point(name, kind, numbers[KINDS[task].scoring.key], numbers["p50_ms"], numbers["megabytes"], numbers)
