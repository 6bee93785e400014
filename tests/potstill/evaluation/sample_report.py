"""A report of models that answer at random, with hostile texts in every place that shows data."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from potstill.config.evaluation_params import Abstention, Evaluate
from potstill.evaluation.abstention import report_abstention
from potstill.evaluation.attributions import Attribution, Word
from potstill.evaluation.class_scores import class_scores
from potstill.evaluation.gate_checks import Check
from potstill.evaluation.gates import Verdict
from potstill.evaluation.naming import BASELINE, MODELS
from potstill.evaluation.pages import plots
from potstill.evaluation.pages.decision_page import (
    Decision,
    RunFacts,
    SplitProfile,
    StageCost,
    Validation,
    with_bento,
    with_decision,
)
from potstill.evaluation.pages.differences import differing_rows, surest_errors
from potstill.evaluation.pages.figures import Figures, confusions, label_bars
from potstill.evaluation.pages.report import render_report
from potstill.evaluation.summary import Answers, compare, compare_pair, score
from potstill.evaluation.teacher_gain import Seed, prove
from potstill.evaluation.truncation import truncation
from potstill.scores.metrics import confusion_matrix, reliability

FORMULA = "=cmd|' /C calc'!A0"
ATTACK = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\"> & \"quotes\" {{ 7 * 7 }}"
NAMES = ["<b>bad</b>", "正面评价的标签名称很长很长很长"]
ROWS = 400
WORDS = ["a", "film", "with", "clumsy", "plot", "and", "charming", "actor", "near", "the", "market", "dull", "winter"]
SETTINGS = Evaluate(bootstrap=200)
# How far a model's logits are on the side of the gold label.
SKILL = {"teacher": 1.7, "student": 1.3, "int8": 1.25, "control": 0.9, "initialised": 1.1, BASELINE: 0.7}
GOLD = np.arange(ROWS) % 2


def sample_answers(skill: float, seed: int) -> Answers:
    """Answer the sample's rows: the higher the skill, the more of them right. Models err on the same rows."""
    noise = np.random.default_rng(0).normal(size=ROWS) + 0.4 * np.random.default_rng(seed).normal(size=ROWS)
    margin = (2 * GOLD - 1) * skill + noise
    return Answers(np.stack([-margin, margin], axis=1).astype(np.float32), 1.2, 2_300_000, round(9e6 + 4e6 * skill))


@cache
def sample_models() -> dict[str, Answers]:
    """The models of an evaluation."""
    return {name: sample_answers(skill, seed) for seed, (name, skill) in enumerate(SKILL.items(), start=1)}


def sample_texts() -> list[str]:
    """Texts of the sample's rows, some of them hostile."""
    random = np.random.default_rng(5)
    texts = [" ".join(random.choice(WORDS, size=random.integers(5, 40))) for _ in range(ROWS)]
    return [f"{FORMULA} {ATTACK} {text}" if number % 7 == 0 else text for number, text in enumerate(texts)]


@cache
def sample_metrics() -> dict[str, Any]:
    """The content of reports/metrics.json."""
    models = sample_models()
    controls = {"pretrained": models["control"], "initialised": models["initialised"]}
    seeds = [Seed(seed, {"student": models["int8"], **controls}) for seed in (17, 18)]
    dev = GOLD, sample_answers(SKILL["int8"], 9)
    metrics: dict[str, Any] = {
        "task": "single_label",
        "shipped": "int8",
        "rows": ROWS,
        "confidence": 0.95,
        "calibration_bins": 15,
        "steps": {"teacher": 330, "distill": 2500},
        "measured": {"at": "2026-11-29 12:00 UTC", "machine": "A processor with a long name @ 2.10GHz, 2 cores"},
        "models": {name: score(GOLD, answers, SETTINGS) for name, answers in models.items()},
        "comparison": compare(GOLD, models, "int8", SETTINGS, seed=0) | {"speedup": 6.0},
        "classes": class_scores(GOLD, {name: models[name] for name in ("int8", "teacher")}, NAMES, 0.95),
        "truncation": {"max_length": 128} | truncation(GOLD, models, np.arange(ROWS) % 9 == 0),
        "proof": prove(GOLD, models["teacher"], seeds, SETTINGS, bootstrap_seed=0),
        "slices": {
            **{"comparisons": 6, "false_discovery_rate": 0.05, "min_rows": 50, "not_judged": {ATTACK: 3}},
            "slices": [
                _slice(ATTACK, 1200, -0.05, "LOSES"),
                _slice("标签 = 很长很长很长的名称", 800, 0.04, "BEATS"),
                _slice("length 120 to 340", 60, 0.001, "NO DIFFERENCE"),
            ],
        },
        "behaviour": {"tests": BEHAVIOUR},
        "abstention": report_abstention(dev, (GOLD, models["int8"]), Abstention(right=0.9), choices=1).to_json(),
    }
    for number, name in enumerate(("teacher", "student", "int8", BASELINE)):
        speed = {"p50_ms": 9.0 - 2 * number, "p99_ms": 12.0 - 2 * number, "texts_per_second": 100.0 + 80 * number}
        metrics["models"][name] |= speed
    return metrics


def _slice(
    name: str, rows: int, difference: float, outcome: str, names: tuple[str, ...] = ("teacher", "control")
) -> dict[str, Any]:
    compared = {"outcome": outcome, "difference": difference, "low": difference - 0.02, "high": difference + 0.02}
    rivals = {rival: compared | {"p_value": 0.1, "adjusted_p_value": 0.2} for rival in names}
    return {"name": name, "rows": rows, "score": 0.8, "low": 0.77, "high": 0.83, "rivals": rivals}


def _failures(rate: float | None) -> dict[str, Any]:
    ends = {f"failure_rate{end}": rate for end in ("", "_low", "_high")}
    return {"rows": 100 if rate else 0, "failures": 100 * (rate or 0), **ends}


BEHAVIOUR: dict[str, Any] = {
    "case_lower": {
        "kind": "INV",
        "direction": None,
        "models": {"int8": _failures(0.25), "teacher": _failures(0.1)},
        "gains": {"teacher": {"outcome": "LOSES", "difference": -0.15, "low": -0.2, "high": -0.1}},
    },
    ATTACK: {
        "kind": "DIR",
        "direction": "falls",
        "models": {"int8": _failures(None), "teacher": _failures(None)},
        "gains": {},
    },
}
FAILURES = {
    "case_lower": {
        "int8": [
            {
                **{"original": ATTACK, "text": ATTACK.lower() + "  x", "expected": None, "change": 0.4},
                **{"before": "bad", "after": ATTACK, "scores_before": [0.9, 0.1], "scores_after": [0.2, 0.8]},
            },
            {
                **{"original": None, "text": ["first " + ATTACK, "second"], "expected": ["bad", "good"], "change": 0.4},
                **{"before": None, "after": [], "scores_before": [], "scores_after": [0.2, 0.8]},
            },
        ]
    }
}
CURVES = {
    name: {"loss": [(step, 2.0 / step) for step in range(1, 60)], "dev": [(10 * k, 0.9 - 0.3 / k) for k in range(1, 7)]}
    for name in ("teacher", "distill")
}


@cache
def sample_figures() -> Figures:
    """Every figure that a page can have."""
    models = sample_models()
    metrics = sample_metrics()
    bins = {name: reliability(GOLD, models[name].probabilities, 15) for name in MODELS}
    counts = {name: confusion_matrix(GOLD, models[name].predictions, 2) for name in MODELS}
    return Figures(
        plots.accuracy_against(metrics["models"], "megabytes", "MB"),
        plots.accuracy_against(metrics["models"], "p50_ms", "ms"),
        plots.reliability_diagrams(bins, 2),
        confusions=confusions(counts, NAMES),
        labels=label_bars(dict.fromkeys(MODELS, np.array([0.25, 1.0])), NAMES),
        coverage=plots.accuracy_coverage(metrics["abstention"], "int8"),
        learning=plots.learning_curves(CURVES, "accuracy"),
    )


def sample_page(skills: tuple[float, float] = (SKILL["teacher"], SKILL["int8"]), **more: Any) -> str:
    """The page as evaluate writes it.

    Args:
        skills: of the teacher and the candidate whose rows are listed.
        more: sections of metrics.json to put in the place of the sample's.
    """
    metrics = sample_metrics() | more
    teacher, student = (sample_answers(skill, seed) for seed, skill in enumerate(skills))
    rows = (sample_texts(), GOLD, teacher, student, NAMES)
    return render_report(
        project="tiny",
        metrics=metrics,
        figures=sample_figures(),
        differing=differing_rows(*rows, 200),
        errors=surest_errors(*rows, 20),
        failures=FAILURES,
        abstention=f"a threshold {ATTACK}",
        attributions=[
            Attribution(NAMES[0], ATTACK, 0.91, [[Word("a ", 0.1), Word("<i>dull</i>", 0.5), Word(" plot", -0.2)]])
        ],
        splits={"train": {"rows": 1234, "tokens": 5, "truncated": 0}},
        lineage={"data/prepared": "ab" * 32},
    )


def sample_decision(*passed: bool) -> Decision:
    """A verdict of checks that passed or not, on a candidate with a champion."""
    models = sample_models()
    champion = sample_answers(1.0, 11)
    names = [f"max_{number}" for number in range(len(passed))]
    checks = [
        Check(name, 0.2, 0.1, ok, f"0.2 is <above> 0.1 ({name})", 0.1, 0.3, ROWS)
        for name, ok in zip(names, passed, strict=True)
    ]
    described = {
        "accuracy": float((champion.predictions == GOLD).mean()),
        "comparison": compare_pair(GOLD, models["int8"], champion, SETTINGS, 0).to_json(),
        "version": "3",
        "slices": {"slices": [_slice("length 1 to 9", 120, -0.06, "LOSES", ("champion",))]},
    }
    return Decision(
        sample_metrics(),
        Verdict(tuple(checks), "BEATS the pretrained control", "the test split has judged <50> times"),
        described,
        differing_rows(sample_texts(), GOLD, champion, models["int8"], NAMES, 200),
        FACTS,
    )


FACTS = RunFacts(
    "c" * 40,
    False,
    f"owner/teacher@{'1' * 40} {ATTACK}",
    "apache-2.0",
    f"project:\n  name: tiny\n  note: {ATTACK}\n",
    "d" * 64,
    "e" * 64,
    {"data/prepared": "f" * 32 + ".dir"},
    {"copies": 12},
    [StageCost("teacher", 63.2, 60.0, 0.0, 330), StageCost("evaluate", 41.0, 1.0, 30.0, None)],
    Validation(50, [], [SplitProfile("train", 1234, [20, 60, 120], {NAMES[0]: 0.4, NAMES[1]: 0.6})]),
)


def finished_page(*passed: bool) -> str:
    """The page with a verdict, the champion, and a Bento."""
    return with_bento(with_decision(sample_page(), sample_decision(*passed)), "potstill-tiny:abc")
