"""Training that several processes share: each of `CASES`, and a failure.

Each case leaves `<case>.safetensors`, the student's and the objective's weights, and `<case>.json`, its outcome.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from potstill.artifacts import write_json
from potstill.compute.distributed import current_world
from potstill.config.params_file import parse_distill
from potstill.config.term_params import Term
from potstill.config.training_params import Training
from potstill.data.tokens.batches import Batch
from potstill.distillation.objective.composition import Blend, Distillation, make_terms
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised, Terms
from potstill.distillation.teachers.outputs import Outputs
from potstill.distillation.teachers.predict import predict_logits
from potstill.distillation.teachers.providers import LiveTeacher
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import TrainingError
from potstill.models.loading import load_classifier
from potstill.models.students.student import student_from_layers
from potstill.training.assistants import Teaching, through_assistants
from potstill.training.loop import Outcome, Setting, train
from potstill.training.together import objective_for, train_students
from tests.potstill.training.test_loop import DEV, rows
from tests.scores import accuracy

CPU = torch.device("cpu")
TRAIN = rows(200, 0)
# For each case what differs from PLAN, and the step before which the run is interrupted once.
PLAN: dict[str, Any] = {
    "epochs": 2, "learning_rate": 3e-3, "batch_tokens": 128, "dropout": 0.0, "checkpoint_seconds": 1e9,
    "average_decay": 0.9, "evaluations_per_epoch": 2,
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], int | None]] = {
    # Every batch is shared row by row.
    "rows": ({}, None),
    # Two batches go to a process each, the third is shared; the last step of an epoch has fewer.
    "batches": ({"accumulate": 3}, None),
    "resumed": ({"checkpoint_seconds": 1e-6}, 20),
    "lora": ({"lora": {"rank": 4, "targets": ["query", "ffn_out"]}}, None),
}
# One projection has gradients only in the first third of the steps.
TERMS = [{"kind": "hidden", "layers": [[2, 2]], "schedule": "decay", "fraction": 0.3}, {"kind": "cosine"}]


class Stop(Exception):
    """Stands for a power cut."""


class Cut(Distillation):
    """A distillation that is interrupted before a step."""

    before: int | None = None

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        if step.index == self.before:
            raise Stop
        return super().forward(outputs, batch, step)


class Broken(Supervised):
    """A term that is NaN for one row, and so in one process's share of a step."""

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        factor = float("nan") if 0 in batch.rows else 0.0
        return super().forward(outputs, batch, step) | {"kl": outputs.logits.sum() * factor}


def narrow(base: Path) -> Any:
    """Make a student of another width than the teacher, whose states are projected."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(base, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_labels=2)
    torch.manual_seed(6)
    return AutoModelForSequenceClassification.from_config(config)


def run(base: Path, folder: Path, name: str) -> tuple[Any, Outcome, Cut]:
    """Run one case, always from the same weights."""
    changes, cut = CASES[name]
    torch.manual_seed(5)
    teacher = load_classifier(base, ["no", "yes"])
    student = narrow(base)
    terms = make_terms(TypeAdapter(list[Term]).validate_python(TERMS), student, teacher, seed=1)
    plan = Setting("distill", Training(**(PLAN | changes)), 11, CPU, "fp32", folder / f"checkpoints-{name}")
    goal = Cut(LiveTeacher(teacher, CPU), Blend(2.0, 0.5), terms)

    def score(found: Any) -> float:
        return accuracy(predict_logits(found, DEV), DEV.labels)

    if cut is not None:
        goal.before = cut
        start = {name: value.clone() for name, value in student.state_dict().items()}
        try:
            train(student, TRAIN, goal, score, plan)
        except Stop:
            student.load_state_dict(start)
            goal.before = None
    return student, train(student, TRAIN, goal, score, plan), goal


def several(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Train with an assistant, and train two students that teach each other; return their weights."""
    torch.manual_seed(5)
    teacher = load_classifier(base, ["no", "yes"])
    changes: dict[str, dict[str, Any]] = {
        "assistant": {"assistants": [[0, 1, 3]]},
        "mutual": {"mutual": {"students": [[0, 3], [1, 2]]}},
    }
    found = {}
    for name, more in changes.items():
        params = parse_distill(PLAN | {"epochs": 1, "layers": [0, 3]} | more)
        setting = Setting("several", params, 11, CPU, "fp32", folder / f"checkpoints-{name}")
        source = StoredSignals(predict_logits(teacher, TRAIN), np.arange(len(TRAIN)))
        teaching = through_assistants(params, Teaching(teacher, source, params.layers), TRAIN, _score, setting)
        students = [teaching.model]
        if params.mutual is not None:
            students = [student_from_layers(teacher, layers) for layers in params.mutual.students]
            train_students(students, objective_for(params, students, teaching, setting), TRAIN, _score, setting)
        for number, student in enumerate(students):
            found |= {f"{name}-{number}/{key}": value for key, value in student.state_dict().items()}
    return found


def _score(model: Any) -> float:
    return accuracy(predict_logits(model, DEV), DEV.labels)


def fail(base: Path, folder: Path) -> str:
    """Return the error message of a run with a NaN."""
    torch.manual_seed(5)
    plan = Setting("distill", Training(**PLAN), 11, CPU, "fp32", folder / "checkpoints-broken", work=folder / "work")
    try:
        train(load_classifier(base, ["no", "yes"]), TRAIN, Broken(), lambda _: 0.0, plan)
    except TrainingError as error:
        return str(error)
    return ""


def main(base: Path, folder: Path) -> None:
    """Run every case, and a failure."""
    for name in CASES:
        student, outcome, goal = run(base, folder, name)
        tensors = dict(student.state_dict()) | {f"objective/{key}": value for key, value in goal.state_dict().items()}
        # Each process ends with the same weights.
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            folder / f"{name}-{current_world().rank}.safetensors",
        )
        if current_world().is_first:
            write_json(folder / f"{name}.json", vars(outcome))
    weights = {name: value.contiguous() for name, value in several(base, folder).items()}
    save_file(weights, folder / f"several-{current_world().rank}.safetensors")
    write_json(folder / f"failure-{current_world().rank}.json", fail(base, folder))
