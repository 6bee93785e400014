"""Choosing a student's layers: short runs of the distill stage's own parts, on the signals that are there already.

No stage: it makes no out, and changes nothing in the workspace. A person reads its table and sets `distill.layers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from potstill.artifacts import verify
from potstill.config.base import OF_PLACES
from potstill.config.distill_params import Distill
from potstill.config.params import Params
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.objective.composition import Blend, Distillation
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ChecksumError, ModelError
from potstill.evaluation.summary import Answers, fidelity
from potstill.models.loading import load_classifier
from potstill.pretrained.families import layers_of
from potstill.scores.scoring import SCORINGS
from potstill.training.layer_probe import Probed, candidate_layers
from potstill.training.loop import Setting, train
from tasks.learning import open_split, prepare_setting, stored_signals, student_tokens, task_kind, teacher_logits
from tasks.stage import Stage, load_stage
from tasks.student_building import make_student, parent_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def probe(params: Params, wanted: Sequence[Sequence[int]], rows: int, each: Callable[[Probed], None]) -> list[Probed]:
    """Train each candidate for one pass over some rows, with the loss on logits alone, and score it on dev.

    Args:
        params: of the workspace, the current folder, whose signals stage has run.
        wanted: candidates; none: those of `candidate_layers` for as many layers as `distill.layers` names.
        rows: training rows for each.
        each: receives a result when it is there.

    Raises:
        ChecksumError: tokens, teacher or signals are missing or altered.
        ModelError: layers that do not exist, or a student that has no layers to choose.
    """
    stage = _stage(params)
    distill = stage.params(Distill)
    if distill.student.kind in ("config", "static"):
        raise ModelError(f"a student of kind {distill.student.kind} takes no layers over: there are none to choose")
    if params.prepare.task in OF_PLACES and student_tokens(stage) != stage.deps["tokens"]:
        raise ModelError(
            "the student splits texts otherwise than its teacher, so their answers about tokens cannot be compared; "
            "probe with tokenize.vocabulary null and without ingest.student"
        )
    teacher = load_classifier(stage.deps["teacher"])
    candidates = wanted or candidate_layers(len(layers_of(parent_of(stage, teacher))), len(distill.layers))
    run = _Probe(stage, teacher, rows)
    found = []
    for layers in candidates:
        found.append(run(layers))
        each(found[-1])
    return found


def _stage(params: Params) -> Stage:
    """The distill stage, its deps verified.

    Without the general student, which has layers of its own: candidates start from the teacher's.
    """
    stage = load_stage("distill", params)
    stage = replace(stage, deps={name: path for name, path in stage.deps.items() if name != "general"})
    for path in stage.deps.values():
        if not path.exists():
            raise ChecksumError(f"{path} does not exist; `potstill run` (or `dvc repro signals`) makes it")
        verify(path)
    return stage


class _Probe:
    """What all candidates have in common: rows, signals and the teacher's answers to dev."""

    def __init__(self, stage: Stage, teacher: PreTrainedModel, rows: int) -> None:
        self.stage, self.teacher = stage, teacher
        self.distill = stage.params(Distill)
        splits = ["train", "transfer"] if self.distill.transfer else ["train"]
        theirs, ours = (
            TokenDataset.concatenate([open_split(stage, split, student=student) for split in splits])
            for student in (False, True)
        )
        chosen = np.sort(np.random.default_rng(stage.project.seed).permutation(len(ours))[:rows])
        self.rows, self.dev = ours.select(chosen), open_split(stage, "dev", student=True)
        self.stored = stored_signals(stage, theirs.select(chosen))
        self.task = task_kind(stage)
        self.scoring, self.answers = SCORINGS[self.task], teacher_logits(stage, "dev")

    def __call__(self, layers: Sequence[int]) -> Probed:
        """One candidate, trained as `distill` says, for one epoch and without the terms on layers."""
        start = time.monotonic()
        plan = self.distill.model_copy(
            update={"layers": list(layers), "epochs": 1, "patience": None, "checkpoint_seconds": 1e9}
        )
        stage = replace(self.stage, sections={**self.stage.sections, "distill": plan})
        objective = Distillation(self.stored, Blend(plan.temperature, plan.alpha, self.task))
        student = make_student(stage, self.teacher, self.rows, objective)
        with TemporaryDirectory(prefix="potstill-") as folder:
            setting = replace(prepare_setting(stage, plan, student), name="probe", checkpoints=Path(folder))
            train(student, self.rows, objective, self._agreement(setting), setting)
        logits = predict_logits(student, self.dev)
        agreement, distance = fidelity(
            *(Answers(side, 1.0, 0, 0, self.task) for side in (self.answers, logits))
        ).values()
        score = self.scoring.score(logits, self.dev.whole_labels)
        return Probed(tuple(layers), agreement, distance, score, time.monotonic() - start)

    def _agreement(self, setting: Setting) -> Callable[[PreTrainedModel], float]:
        return lambda model: self.scoring.agreement(
            predict_logits(model, self.dev, device=setting.device, precision=setting.precision), self.answers
        )
