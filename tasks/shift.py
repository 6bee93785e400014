"""Scores of the models on the shift set: labelled rows of another domain, where the data has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from potstill.compute.precision import choose_device
from potstill.config.base import SHIFT
from potstill.config.evaluation_params import Evaluate
from potstill.distillation.teachers.predict import predict_logits
from potstill.evaluation.baseline import Baseline
from potstill.evaluation.domain_shift import judge_shift
from potstill.evaluation.gold import read_gold, served_answers
from potstill.evaluation.naming import BASELINE, QUANTIZED, SHIPPED, TITLES
from potstill.evaluation.summary import Answers
from potstill.inference.runtime import Student, Text
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.scores.metrics import require_finite
from tasks.learning import open_tokens, read_temperature, teacher_text_logits, trained_controls
from tasks.stage import Stage

SHIFT_FILE = f"{SHIFT}.parquet"


def measure_shift(
    stage: Stage, shipped: Student, quantized: Student | None, baseline: Baseline | None, folder: Path
) -> dict[str, Any] | None:
    """Score the models on the shift set; None where the data has none.

    Of a task about spans of a text these are the served models: the candidate and the quantized teacher.

    Args:
        stage: evaluate.
        shipped: the served candidate.
        quantized: the quantized teacher, where there is one.
        baseline: TF-IDF, where the task has one.
        folder: a scratch folder.
    """
    prepared = stage.deps["prepared"] / SHIFT_FILE
    if not prepared.exists():
        return None
    settings = stage.params(Evaluate)
    seed = stage.project.seed
    path = _sample(prepared, settings.shift_rows, seed, folder)
    candidate = SHIPPED[shipped.card.variant]
    texts, gold = read_gold(path, shipped)
    with stage.work("inference"):
        answers = {candidate: served_answers(shipped, texts, gold, TITLES[candidate])}
        if quantized is not None:
            quantized_texts, quantized_gold = read_gold(path, quantized)
            answers[QUANTIZED] = served_answers(quantized, quantized_texts, quantized_gold, TITLES[QUANTIZED])
        if not KINDS[shipped.card.kind].marks_spans:
            answers |= _torch_answers(stage, texts, shipped)
    if baseline is not None:
        answers[BASELINE] = baseline.answers(texts, shipped.card.kind)
    return judge_shift(gold, answers, candidate, settings, seed=seed)


def _sample(path: Path, count: int, seed: int, folder: Path) -> Path:
    """Return a file of at most `count` rows, drawn by a seed."""
    rows = pq.read_table(path)
    if len(rows) <= count:
        return path
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), size=count, replace=False))
    pq.write_table(rows.take(chosen), folder / SHIFT_FILE)
    return folder / SHIFT_FILE


def _torch_answers(stage: Stage, texts: Sequence[Text], shipped: Student) -> Mapping[str, Answers]:
    """Return the answers of the teacher and the controls to whole texts."""
    task = shipped.card.kind
    temperature = read_temperature(stage.deps["teacher"])
    answers = {"teacher": Answers(teacher_text_logits(stage, texts), temperature, 0, 0, task)}
    rows = open_tokens(stage).student.tokenize(texts)
    for name in trained_controls(stage):
        model = load_classifier(stage.deps[name]).to(choose_device(stage.project.device))
        logits = predict_logits(model, rows)
        require_finite(logits, str(stage.deps[name]))
        answers[name] = Answers(logits, read_temperature(stage.deps[name]), 0, 0, task)
    return answers
