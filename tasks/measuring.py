"""Students of a search as they would ship, beside their teacher: scored, timed and judged on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from potstill.config import Params
from potstill.evaluation.contenders import teacher_pipeline
from potstill.evaluation.gates import Verdict, judge
from potstill.evaluation.latency import Speed, measure_side_by_side
from potstill.evaluation.metrics import Ints, accuracy, agreement, require_finite
from potstill.evaluation.naming import SHIPPED
from potstill.evaluation.summary import Answers, score
from potstill.evaluation.texts import read_texts
from potstill.models.loading import load_classifier
from potstill.search.pareto import Point
from potstill.search.space import Choice
from potstill.serving.runtime import MODEL, Student, Text
from tasks.learning import teacher_logits, teacher_members
from tasks.stage import Stage, load_stage

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
    texts, labels = read_texts(load_stage("prepare", params).outs["prepared"] / DEV)
    students = {name: Student(one.serving) for name, one in made.items()}
    speeds = _speeds(students, texts, params, stage.deps["teacher"])
    taught = _taught(stage)
    numbers = score(labels, taught, params.evaluate) | asdict(speeds["teacher"])
    points = [_point("teacher", numbers)]
    for name, one in made.items():
        size = (one.serving / MODEL).stat().st_size
        student, parameters = students[name], load_classifier(one.place / "student").num_parameters()
        logits = student.logits(texts)
        require_finite(logits, str(one.serving))
        ours = Answers(logits, student.card.temperature, parameters, size)
        numbers = score(labels, ours, params.evaluate) | asdict(speeds[name])
        speedup = speeds[name].texts_per_second / speeds["teacher"].texts_per_second
        comparison = _compare(labels, taught, ours) | {"speedup": speedup}
        verdict = _judged(student.card.variant, numbers, comparison, params)
        about = {**numbers, **comparison, "variant": student.card.variant}
        points.append(_point(name, about, one, verdict))
    return points, len(labels)


def _taught(stage: Stage) -> Answers:
    folder = stage.deps["teacher"]
    teacher, size = load_classifier(folder), sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    members = len(teacher_members(stage))
    return Answers(teacher_logits(stage, "dev"), 1.0, teacher.num_parameters(), size, members=members)


def _speeds(students: Mapping[str, Student], texts: Sequence[Text], params: Params, teacher: Path) -> dict[str, Speed]:
    calls = {"teacher": teacher_pipeline(teacher, params.tokenize.max_length)}
    return measure_side_by_side(
        calls | {name: student.predict for name, student in students.items()},
        texts,
        latency_texts=params.evaluate.latency_texts,
        throughput_texts=params.evaluate.throughput_texts,
        rounds=params.evaluate.rounds,
    )


def _compare(labels: Ints, taught: Answers, ours: Answers) -> dict[str, float]:
    found = {"agreement": agreement(taught.predictions, ours.predictions)}
    if (right := accuracy(labels, taught.predictions)) > 0:
        found["teacher_ratio"] = accuracy(labels, ours.predictions) / right
    return found


def _judged(variant: str, numbers: Mapping[str, Any], comparison: Mapping[str, Any], params: Params) -> Verdict:
    metrics = {"shipped": variant, "models": {SHIPPED[variant]: numbers}, "comparison": comparison}
    return judge(metrics, params.gate.model_copy(update=WITHOUT_CONTROLS), None)


def _point(name: str, numbers: dict[str, Any], made: Made | None = None, verdict: Verdict | None = None) -> Point:
    return Point(
        name,
        made.kind if made else "teacher",
        numbers["accuracy"],
        numbers["p50_ms"],
        numbers["megabytes"],
        made.choice if made else None,
        made.made_by if made else [],
        made.sections if made else {},
        verdict,
        numbers,
        made.serving.as_posix() if made else None,
    )
