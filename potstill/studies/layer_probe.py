"""Short trainings from several choices of layers, on the cached signals, to find the one to start a student from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from potstill.config.training_params import Training
from potstill.distillation.teachers.predict import predict_logits
from potstill.evaluation.summary import Answers, fidelity
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.training.distillation_job import DistillationJob
from potstill.training.loop import Setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Probed:
    """How near a candidate came to its teacher.

    Attributes:
        layers: it started from, from 0.
        agreement: share of the answers to dev that are its teacher's; of numbers the correlation.
        distance: from its teacher's answers: mean KL(teacher || candidate) in nats, of numbers the RMSE.
        score: the task's, on the gold labels of dev.
        seconds: it took.
    """

    layers: tuple[int, ...]
    agreement: float
    distance: float
    score: float
    seconds: float


def probe_layers(job: DistillationJob, layers: Sequence[int]) -> Probed:
    """Train a student of these layers for one pass over the rows, on the teacher's logits alone, and score it on dev.

    Args:
        job: the distillation that the layers are for.
        layers: of the teacher, or of the student's checkpoint.

    Raises:
        ModelError: layers that do not exist.
    """
    start = time.monotonic()
    data, teacher_logits = job.data, job.teacher.dev_logits
    dev, scoring = data.student.dev, KINDS[data.task].scoring
    with TemporaryDirectory(prefix="potstill-") as checkpoints:
        preparation = _short(job, layers, Path(checkpoints)).prepare()

        def agreement(model: PreTrainedModel) -> float:
            logits = predict_logits(model, dev, precision=preparation.setting.precision)
            return scoring.agreement(logits, teacher_logits)

        student = preparation.train(agreement).model
    logits = predict_logits(student, dev)
    alike, distance = fidelity(*(Answers(side, 1.0, 0, 0, data.task) for side in (teacher_logits, logits))).values()
    score = scoring.score(logits, data.student.dev_labels)
    return Probed(tuple(layers), alike, distance, score, time.monotonic() - start)


def _short(job: DistillationJob, layers: Sequence[int], checkpoints: Path) -> DistillationJob:
    """The same distillation for one epoch, without losses on layers, assistants and further students."""
    changes = {"layers": list(layers), "epochs": 1, "patience": None, "checkpoint_seconds": 1e9}
    changes |= {"terms": [], "assistants": [], "mutual": None}
    builder = replace(job.builder, params=job.params.model_copy(update=changes))

    def choose_setting(plan: Training, model: PreTrainedModel) -> Setting:
        return replace(job.choose_setting(plan, model), name="probe", checkpoints=checkpoints)

    return replace(job, builder=builder, choose_setting=choose_setting)


def ranked(probed: Sequence[Probed]) -> list[Probed]:
    """Sort candidates, the best first: by agreement, of equals the nearer to the teacher."""
    return sorted(probed, key=lambda one: (-one.agreement, one.distance))
