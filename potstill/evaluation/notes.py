"""Notes on the table of models, as sentences for the end of a run and for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.evaluation.baseline import baseline_sentence, beats_baseline
from potstill.evaluation.naming import TITLES, candidate_of
from potstill.evaluation.teacher_forms import quantized_note
from potstill.kinds.definitions.task_kinds import kind_in
from potstill.training.plan import FEW_STEPS

# A smaller share of cut texts is not worth a sentence.
_FEW_CUT = 0.01


def notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return sentences about metrics.json, without a full stop; none where there is nothing to add."""
    sentences = [_members(metrics), quantized_note(metrics), _steps(metrics), _truncation(metrics)]
    if not beats_baseline(metrics):
        sentences.append(baseline_sentence(metrics))
    return [sentence for sentence in sentences if sentence is not None]


def _members(metrics: Mapping[str, Any]) -> str | None:
    """Say that a teacher is scored as an ensemble but timed as one model."""
    members = metrics["models"].get("teacher", {}).get("members", 1)
    if members == 1:
        return None
    return f"{TITLES['teacher']}: scores of {members} models together; size and speed of the first alone"


def _steps(metrics: Mapping[str, Any]) -> str | None:
    """Name the stages that made too few optimiser steps."""
    few = [f"{stage} ({steps})" for stage, steps in metrics.get("steps", {}).items() if 0 < steps < FEW_STEPS]
    if not few:
        return None
    return f"Fewer than {FEW_STEPS} optimiser steps: {', '.join(few)}; more epochs or smaller batches teach more"


def _truncation(metrics: Mapping[str, Any]) -> str | None:
    """Say how many texts are cut, and what that costs the model that ships."""
    truncation = metrics.get("truncation")
    if truncation is None or truncation["share"] < _FEW_CUT:
        return None
    share = f"{truncation['share']:.1%} of the test texts are cut at {truncation['max_length']} tokens"
    name = candidate_of(metrics)
    if name is None or "cut" not in truncation:
        return share
    cut, whole = (f"{100 * truncation[part][name]:.1f}%" for part in ("cut", "whole"))
    return f"{share}: {TITLES[name]} has {cut} {kind_in(metrics).scoring.words} on those and {whole} on the others"
