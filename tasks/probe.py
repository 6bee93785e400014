"""Compares choices of a student's layers by short runs of the distill stage's job, on the stored signals.

It is no stage, since it changes nothing in the workspace. A person reads its table and sets `distill.layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from potstill.artifacts import verify
from potstill.config.distill_params import Distill
from potstill.config.params import Params
from potstill.errors import ChecksumError, ModelError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.students.layer_choice import candidate_layers
from potstill.studies.layer_probe import Probed, probe_layers
from tasks.distill import distillation_job, open_data
from tasks.learning import open_tokens
from tasks.stage import Stage, load_stage


def probe(
    params: Params, candidates: Sequence[Sequence[int]], rows: int, each: Callable[[Probed], None]
) -> list[Probed]:
    """Train each candidate for one pass over some rows, with the loss on logits alone, and score it on dev.

    Args:
        params: params of the workspace in the current folder, whose signals stage has run.
        candidates: layers of each student; empty: those of `candidate_layers`, as many as `distill.layers` names.
        rows: training rows of each run.
        each: called with each result as soon as it is known.

    Raises:
        ChecksumError: tokens, teacher or signals are missing or altered.
        ModelError: layers that do not exist, or a student that has no layers to choose.
    """
    stage = _verified_stage(params)
    distill, tokens = stage.params(Distill), open_tokens(stage)
    if distill.student.kind in ("config", "static"):
        raise ModelError(f"a student of kind {distill.student.kind} takes no layers over: there are none to choose")
    if KINDS[tokens.task].marks_spans and tokens.student is not tokens:
        raise ModelError(
            "the student splits texts otherwise than its teacher, so their answers about tokens cannot be compared; "
            "probe with tokenize.vocabulary null and without ingest.student"
        )
    data = open_data(tokens, distill)
    drawn = np.random.default_rng(stage.project.seed).permutation(len(data.student.train))[:rows]
    job = distillation_job(stage, tokens, data.select(np.sort(drawn)))
    candidates = candidates or candidate_layers(job.builder.available(job.teacher.model), len(distill.layers))
    probed = []
    for layers in candidates:
        probed.append(probe_layers(job, layers))
        each(probed[-1])
    return probed


def _verified_stage(params: Params) -> Stage:
    """Load the distill stage and verify its deps.

    The general student is left out, since it has fixed layers. Candidates start from the teacher's layers.
    """
    stage = load_stage("distill", params)
    stage = replace(stage, deps={name: path for name, path in stage.deps.items() if name != "general"})
    for path in stage.deps.values():
        if not path.exists():
            raise ChecksumError(f"{path} does not exist; `potstill run` (or `dvc repro signals`) makes it")
        verify(path)
    return stage
