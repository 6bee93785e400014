"""One self-contained HTML page about a student: no script, no font, no image from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.data.tokens.offsets import unit_classes
from potstill.evaluation.baseline import beaten
from potstill.evaluation.marks import GoldAnswers, GoldTags
from potstill.evaluation.naming import MODELS, PROVEN, candidate_of
from potstill.evaluation.pages import table
from potstill.evaluation.pages.figures import Figures
from potstill.evaluation.pages.report_page import TEMPLATE
from potstill.evaluation.pages.sheet import render
from potstill.evaluation.summary import Answers
from potstill.scores.metrics import Doubles, Floats, Labels
from potstill.scores.scoring import Scoring, scoring_of


@dataclass(frozen=True)
class Disagreement:
    """A test text on which teacher and student differ: in the class, a label, the number, the entities or the answer.

    Only classes and labels have a probability.
    """

    text: str
    gold: str
    teacher: str
    teacher_probability: float | None
    student: str
    student_probability: float | None


def disagreements(
    texts: Sequence[str], labels: Labels, teacher: Answers, student: Answers, names: Sequence[str], most: int
) -> list[Disagreement]:
    """The texts on which the two differ, those first where both are surest, or numbers are farthest apart.

    Args:
        texts: [rows] as they were before tokenization.
        labels: [rows, ...] gold labels in the task's form.
        teacher: the teacher's answers to them.
        student: the student's.
        names: class names in index order.
        most: how many to return.
    """
    if teacher.task == "regression":
        return _far_apart(texts, labels, teacher.numbers, student.numbers, most)
    if teacher.task == "multi_label":
        return _disputed(texts, labels, teacher.probabilities, student.probabilities, names, most)
    ours, theirs = student.probabilities.max(axis=1), teacher.probabilities.max(axis=1)
    differ = np.flatnonzero(student.predictions != teacher.predictions)
    order = differ[np.argsort(-np.minimum(ours, theirs)[differ], kind="stable")][:most]
    return [
        Disagreement(
            texts[row], names[labels[row]],
            names[teacher.predictions[row]], float(theirs[row]),
            names[student.predictions[row]], float(ours[row]),
        )
        for row in order
    ]  # fmt: skip


def _far_apart(texts: Sequence[str], gold: Labels, teacher: Floats, student: Floats, most: int) -> list[Disagreement]:
    order = np.argsort(-np.abs(teacher - student), kind="stable")[:most]
    return [
        Disagreement(texts[row], _number(gold[row]), _number(teacher[row]), None, _number(student[row]), None)
        for row in order
        if teacher[row] != student[row]
    ]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _disputed(
    texts: Sequence[str], gold: Labels, teacher: Doubles, student: Doubles, names: Sequence[str], most: int
) -> list[Disagreement]:
    """A text once for each label in dispute; the probability is of what is said, yes or no."""
    sure = np.minimum(np.abs(teacher - 0.5), np.abs(student - 0.5))
    rows, labels = np.nonzero((teacher > 0.5) != (student > 0.5))
    order = np.argsort(-sure[rows, labels], kind="stable")[:most]

    def said(yes: bool, label: int) -> str:
        return names[label] if yes else f"not {names[label]}"

    found = []
    for row, label in zip(rows[order].tolist(), labels[order].tolist(), strict=True):
        theirs, ours = float(teacher[row, label]), float(student[row, label])
        found.append(
            Disagreement(
                texts[row], said(gold[row, label] > 0, label),
                said(theirs > 0.5, label), max(theirs, 1 - theirs),
                said(ours > 0.5, label), max(ours, 1 - ours),
            )
        )  # fmt: skip
    return found


def differing_marks(gold: GoldTags | GoldAnswers, teacher: Answers, student: Answers, most: int) -> list[Disagreement]:
    """The first texts of which teacher and student say other entities, or other answers."""
    if isinstance(gold, GoldTags):
        sides = [(side.logits.argmax(axis=1), side.view(gold)) for side in (teacher, student)]
        classes = (gold.classes, *(unit_classes(said, view.seen) for said, view in sides))
        texts, columns = gold.texts, [gold.shown(found) for found in classes]
    else:
        texts = [f"{question}\n{context}" for question, context in gold.questions]
        wanted = [" / ".join(dict.fromkeys(ones)) or "none" for ones in gold.gold]
        columns = [
            wanted,
            *([one or "none" for one in side.view(gold).answers(side.logits)] for side in (teacher, student)),
        ]
    found = [
        Disagreement(text, right, theirs, None, ours, None)
        for text, right, theirs, ours in zip(texts, *columns, strict=True)
        if theirs != ours
    ]
    return found[:most]


def render_report(
    *,
    project: str,
    metrics: Mapping[str, Any],
    figures: Figures,
    examples: Sequence[Disagreement],
    splits: Mapping[str, Mapping[str, int]],
    lineage: Mapping[str, str],
) -> str:
    """The page.

    Args:
        project: its name, for the title.
        metrics: the content of reports/metrics.json.
        figures: of the task.
        examples: texts on which teacher and student disagree; their text is escaped.
        splits: split -> `rows`, `tokens`, `truncated`.
        lineage: path of an input -> its sha256.
    """
    candidate = candidate_of(metrics) or ""
    comparison, scoring = metrics["comparison"], scoring_of(metrics)
    return render(
        TEMPLATE,
        project=project,
        metrics=metrics,
        candidate=MODELS[candidate],
        model=metrics["models"][candidate],
        comparison=comparison,
        verdicts=[*(_verdict(name, metrics, scoring) for name in metrics["proof"]["verdicts"]), *_baseline(metrics)],
        proof=_proof_rows(metrics["proof"]),
        proof_titles=["", "training seed", *_proof_titles(metrics["proof"])],
        controls=[PROVEN[name] for name in metrics["proof"]["verdicts"]],
        score=[f"{100 * metrics['models'][candidate][scoring.key + end]:.1f}" for end in ("", "_low", "_high")],
        scoring=scoring,
        details=_details(metrics["models"][candidate], metrics.get("task", "single_label")),
        task=metrics.get("task", "single_label"),
        headers=[_one_line(title) for title in table.headers(metrics)],
        rows=table.rows(metrics),
        note=table.note(metrics),
        figures=figures,
        examples=examples,
        split_rows=[
            [name, *(f"{split[key]:,}" for key in ("rows", "tokens", "truncated"))] for name, split in splits.items()
        ],
        lineage=lineage,
    )


def _one_line(title: str) -> str:
    """A title of the terminal's table, which breaks words to be narrow, as the page has it."""
    return title.replace("-\n", "").replace("\n", " ").strip()


# What a reader calls the scores of a task that has several; the table has room for some of them.
_NAMES: dict[str, dict[str, str]] = {
    "token_classification": {"f1": "F1", "precision": "precision", "recall": "recall", "macro_f1": "macro F1"},
    "question_answering": {"f1": "F1", "exact_match": "exact match"},
    "multi_label": {"micro_f1": "micro F1", "macro_f1": "macro F1", "subset_accuracy": "subset accuracy"},
    "regression": {
        "r2": "R²",
        "mse": "mean squared error",
        "mae": "mean absolute error",
        "pearson": "Pearson correlation",
        "spearman": "Spearman correlation",
    },
}


def _details(model: Mapping[str, Any], task: str) -> list[list[str]]:
    """Name, value and interval of every score of the candidate."""
    return [
        [words, f"{model[key]:.4f}", f"{model[f'{key}_low']:.4f} to {model[f'{key}_high']:.4f}"]
        for key, words in _NAMES.get(task, {}).items()
    ]


def _verdict(control: str, metrics: Mapping[str, Any], scoring: Scoring) -> str:
    """The comparison with a control in one sentence."""
    proof = metrics["proof"]
    verdict, seeds = proof["verdicts"][control], len(proof["seeds"])
    words = {"BEATS": "beats", "LOSES": "loses to", "NO DIFFERENCE": "cannot be told apart from"}[verdict["outcome"]]
    points = [f"{100 * verdict[part]:+.1f}" for part in ("difference", "low", "high")]
    over = (
        f"over the rows and {seeds} training seeds"
        if seeds > 1
        else "over the rows; of one training seed, so the noise of training is not in it"
    )
    return (
        f"The student {words} the {PROVEN[control].lower()} control: {points[0]} points of {scoring.words} on the same "
        f"test texts, {100 * metrics['confidence']:g}% interval {points[1]} to {points[2]} (paired bootstrap {over})."
    )


def _baseline(metrics: Mapping[str, Any]) -> list[str]:
    """The comparison with TF-IDF, where the task has one."""
    sentence = beaten(metrics)
    return [] if sentence is None else [f"{sentence}."]


# Key of a model's numbers in the proof -> its title, and how it is written.
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


def _proof_titles(proof: Mapping[str, Any]) -> list[str]:
    return [_PROOF[key][0] for key in _proof_keys(proof)]


def _proof_keys(proof: Mapping[str, Any]) -> list[str]:
    there = next(iter(proof["models"].values()))
    return [key for key in _PROOF if key in there]


def _proof_rows(proof: Mapping[str, Any]) -> list[list[str]]:
    """Each model of the proof: a row a seed and, of several, one of their means."""
    rows, keys = [], _proof_keys(proof)
    for name, numbers in proof["models"].items():
        columns = [numbers[key] for key in keys]
        found = dict(zip(map(str, proof["seeds"]), zip(*columns, strict=True), strict=True))
        if len(found) > 1:
            found["mean"] = tuple(float(np.mean(column)) for column in columns)
        rows += [
            [PROVEN[name], seed, *(_PROOF[key][1](value) for key, value in zip(keys, values, strict=True))]
            for seed, values in found.items()
        ]
    return rows
