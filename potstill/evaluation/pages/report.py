"""The report: one self-contained HTML page about a student, which loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from potstill.evaluation.attributions import Attribution
from potstill.evaluation.baseline import baseline_sentence
from potstill.evaluation.metrics_reading import OUTCOMES, signed_interval, signed_points, with_bounds
from potstill.evaluation.naming import MODELS, PROVEN, TITLES, candidate_of
from potstill.evaluation.pages import table
from potstill.evaluation.pages.decision_page import SLOTS, slot
from potstill.evaluation.pages.differences import Rows
from potstill.evaluation.pages.figures import Figures
from potstill.evaluation.pages.interval_tables import (
    behaviour_table,
    class_table,
    cut_table,
    failure_lists,
    shift_table,
    slice_table,
)
from potstill.evaluation.pages.records import POLICY, SCRIPT
from potstill.evaluation.pages.report_page import TEMPLATE
from potstill.evaluation.pages.sheet import render
from potstill.evaluation.teacher_forms import quantized_sentence
from potstill.kinds.definitions.kind import Kind
from potstill.kinds.definitions.task_kinds import kind_in
from potstill.scores.scoring import Scoring

# Behavioural test -> model -> examples of failures, as `data/evaluation/behaviour.json` has them.
Failures = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def render_report(
    *,
    project: str,
    metrics: Mapping[str, Any],
    figures: Figures,
    differing: Rows,
    errors: Rows,
    splits: Mapping[str, Mapping[str, int]],
    lineage: Mapping[str, str],
    failures: Failures | None = None,
    abstention: str = "",
    attributions: Sequence[Attribution] = (),
) -> str:
    """Render the page, with a slot for each part that is known later (`decision_page`).

    Args:
        project: the project's name, for the title.
        metrics: the content of reports/metrics.json.
        figures: the task's figures.
        differing: rows on which teacher and candidate differ; all texts are escaped.
        errors: the candidate's surest errors.
        splits: split -> `rows`, `tokens`, `truncated`.
        lineage: path of an input -> its sha256.
        failures: behavioural test -> model -> examples; their texts are escaped.
        abstention: what the threshold brings, in a sentence.
        attributions: the words that some answers rest on.
    """
    candidate = candidate_of(metrics) or ""
    kind = kind_in(metrics)
    scoring = kind.scoring
    return render(
        TEMPLATE,
        project=project,
        metrics=metrics,
        candidate=MODELS[candidate],
        model=metrics["models"][candidate],
        comparison=metrics["comparison"],
        verdicts=[
            *(_verdict(name, metrics, scoring) for name in metrics["proof"]["verdicts"]),
            *_alternatives(metrics, candidate),
        ],
        proof=_proof_rows(metrics["proof"]),
        proof_titles=["", "training seed", *(_PROOF[key][0] for key in _proof_keys(metrics["proof"]))],
        controls=[PROVEN[name] for name in metrics["proof"]["verdicts"]],
        score=[f"{100 * metrics['models'][candidate][key]:.1f}" for key in with_bounds(scoring.key)],
        scoring=scoring,
        details=_details(metrics["models"][candidate], kind),
        form=kind.form,
        headers=[_one_line(title) for title in table.headers(metrics)],
        rows=table.rows(metrics),
        note=table.note(metrics),
        figures=figures,
        differing=differing,
        errors=errors,
        attributions=attributions,
        precision=class_table(metrics, "precision"),
        recall=class_table(metrics, "recall"),
        cut=cut_table(metrics),
        shown=("teacher", candidate),
        titles=TITLES,
        slots={name: slot(name) for name in SLOTS},
        policy=POLICY,
        script=SCRIPT,
        split_rows=[
            [name, *(f"{split[key]:,}" for key in ("rows", "tokens", "truncated"))] for name, split in splits.items()
        ],
        lineage=lineage,
        slices=slice_table(metrics),
        shift=shift_table(metrics),
        behaviour=behaviour_table(metrics, candidate),
        failures=failure_lists(failures or {}, candidate),
        abstention=abstention,
    )


def _one_line(title: str) -> str:
    """Undo the line breaks of a title, which make the terminal's table narrow."""
    return title.replace("-\n", "").replace("\n", " ").strip()


def _details(model: Mapping[str, Any], kind: Kind) -> list[list[str]]:
    """Return name, value and interval of every score of the candidate."""
    return [
        [words, f"{model[key]:.4f}", f"{model[f'{key}_low']:.4f} to {model[f'{key}_high']:.4f}"]
        for key, words in kind.score_names.items()
    ]


def _verdict(control: str, metrics: Mapping[str, Any], scoring: Scoring) -> str:
    """Put the comparison with a control into one sentence."""
    verdict = metrics["proof"]["verdicts"][control]
    seeds = len(metrics["proof"]["seeds"])
    over = "over the rows; of one training seed, so the noise of training is not in it"
    if seeds > 1:
        over = f"over the rows and {seeds} training seeds"
    return (
        f"The student {OUTCOMES[verdict['outcome']]} the {PROVEN[control].lower()} control: "
        f"{signed_points(verdict['difference'])} points of {scoring.words} on the same test texts, "
        f"{100 * metrics['confidence']:g}% interval {signed_interval(verdict['low'], verdict['high'])} "
        f"(paired bootstrap {over})."
    )


def _alternatives(metrics: Mapping[str, Any], candidate: str) -> list[str]:
    """Return the comparisons with the quantized teacher and with TF-IDF, where there are any."""
    sentences = [quantized_sentence(metrics, candidate), baseline_sentence(metrics)]
    return [f"{sentence}." for sentence in sentences if sentence is not None]


# Key of a model's numbers in the proof -> its title, and its format.
_PROOF: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy, %", lambda value: f"{100 * value:.1f}"),
    "micro_f1": ("micro F1, %", lambda value: f"{100 * value:.1f}"),
    "r2": ("R², %", lambda value: f"{100 * value:.1f}"),
    "agreement": ("agreement with the teacher, %", lambda value: f"{100 * value:.1f}"),
    "kl": ("KL to the teacher, nats", lambda value: f"{value:.4f}"),
    "correlation": ("correlation with the teacher", lambda value: f"{value:.3f}"),
    "rmse": ("distance to the teacher (root of the mean square)", lambda value: f"{value:.3g}"),
    "ece": ("ECE", lambda value: f"{value:.3f}"),
}


def _proof_keys(proof: Mapping[str, Any]) -> list[str]:
    numbers = next(iter(proof["models"].values()))
    return [key for key in _PROOF if key in numbers]


def _proof_rows(proof: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of each model of the proof: one for each seed and, with several, one of their means."""
    rows = []
    keys = _proof_keys(proof)
    for name, numbers in proof["models"].items():
        columns = [numbers[key] for key in keys]
        by_seed = dict(zip(map(str, proof["seeds"]), zip(*columns, strict=True), strict=True))
        if len(by_seed) > 1:
            by_seed["mean"] = tuple(float(np.mean(column)) for column in columns)
        rows += [
            [PROVEN[name], seed, *(_PROOF[key][1](value) for key, value in zip(keys, values, strict=True))]
            for seed, values in by_seed.items()
        ]
    return rows
