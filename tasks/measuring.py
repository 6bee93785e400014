"""Students of a search as they would ship, beside their teacher: scored, timed and judged on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from potstill.config.params import Params
from potstill.evaluation.contenders import teacher_pipeline
from potstill.evaluation.gates import Verdict, judge
from potstill.evaluation.gold import read_gold, student_logits
from potstill.evaluation.latency import Speed, measure_side_by_side
from potstill.evaluation.naming import SHIPPED
from potstill.evaluation.summary import Answers, Gold, likeness, score, score_value
from potstill.inference.profile import answer_all
from potstill.inference.runtime import MODEL, ModelCard, Student, Text
from potstill.models.loading import load_classifier
from potstill.scores.metrics import require_finite
from potstill.scores.scoring import SCORINGS
from potstill.studies.pareto import Point
from potstill.studies.space import Choice
from tasks.learning import task_kind, teacher_logits, teacher_members
from tasks.stage import Stage, load_stage
from tasks.views import teachers_view

DEV = "dev.parquet"
# Gates that need what a search does not have: the controls.
WITHOUT_CONTROLS: dict[str, Any] = {"min_gain_over_control": None, "min_gain_over_control_upper": None, "must_beat": []}


@dataclass(frozen=True)
class Made:
    """A student ready to be measured.

    Attributes:
        kind: see `Point`.
        place: folder with `student/` and `serving/`.
        made_by: see `Point`.
        sections: see `Point`.
        choice: of a trial.
    """

    kind: str
    place: Path
    made_by: list[str]
    sections: dict[str, Any]
    choice: Choice | None = None

    @property
    def serving(self) -> Path:
        """Its serving folder."""
        return self.place / "serving"


def measure(made: Mapping[str, Made], params: Params, stage: Stage) -> tuple[list[Point], int]:
    """The teacher's point and one for each student, and the number of dev rows.

    Args:
        made: name -> student.
        params: limits of the gates, and how to time.
        stage: the distill stage; its teacher and its tokens.
    """
    path = load_stage("prepare", params).outs["prepared"] / DEV
    students = {name: Student(one.serving) for name, one in made.items()}
    # All students read texts alike: a search changes no tokenizer.
    texts, gold = read_gold(path, next(iter(students.values())))
    speeds = _speeds(students, texts, params, stage.deps["teacher"])
    taught = _taught(stage, path)
    numbers = score(gold, taught, params.evaluate) | asdict(speeds["teacher"])
    points = [_point("teacher", taught, numbers)]
    for name, one in made.items():
        student = students[name]
        ours = _answers(one, student, texts, gold)
        numbers = score(gold, ours, params.evaluate) | asdict(speeds[name])
        speedup = speeds[name].texts_per_second / speeds["teacher"].texts_per_second
        comparison = _compare(gold, taught, ours) | {"speedup": speedup}
        verdict = _judged(student.card, numbers, comparison, params)
        about = {**numbers, **comparison, "variant": student.card.variant}
        points.append(_point(name, ours, about, one, verdict))
    return points, len(gold)


def _taught(stage: Stage, path: Path) -> Answers:
    folder = stage.deps["teacher"]
    teacher, size = load_classifier(folder), sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    members, logits = len(teacher_members(stage)), teacher_logits(stage, "dev")
    return Answers(logits, 1.0, teacher.num_parameters(), size, task_kind(stage), members, teachers_view(stage, path))


def _answers(made: Made, student: Student, texts: Sequence[Text], gold: Gold) -> Answers:
    """What a student answers as it ships."""
    logits = student_logits(student, texts, gold)
    require_finite(logits, str(made.serving))
    parameters, size = load_classifier(made.place / "student").num_parameters(), (made.serving / MODEL).stat().st_size
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


def _compare(gold: Gold, taught: Answers, ours: Answers) -> dict[str, float]:
    found = likeness(taught, ours, labels=gold)
    if (right := score_value(gold, taught)) > 0:  # a ratio to nothing is absent, and a missing number fails its gate
        found["teacher_ratio"] = score_value(gold, ours) / right
    return found


def _judged(card: ModelCard, numbers: Mapping[str, Any], comparison: Mapping[str, Any], params: Params) -> Verdict:
    metrics = {"shipped": card.variant, "models": {SHIPPED[card.variant]: numbers}, "comparison": comparison}
    return judge(metrics, params.gate.model_copy(update=WITHOUT_CONTROLS), None, card.kind)


def _point(
    name: str, answers: Answers, numbers: dict[str, Any], made: Made | None = None, verdict: Verdict | None = None
) -> Point:
    return Point(
        name,
        made.kind if made else "teacher",
        numbers[SCORINGS[answers.task].key],
        numbers["p50_ms"],
        numbers["megabytes"],
        made.choice if made else None,
        made.made_by if made else [],
        made.sections if made else {},
        verdict,
        numbers,
        made.serving.as_posix() if made else None,
    )
