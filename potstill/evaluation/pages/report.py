"""The report: one self-contained HTML page about a student, without external scripts, fonts or images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.evaluation.baseline import baseline_sentence
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.naming import MODELS, PROVEN, candidate_of
from potstill.evaluation.pages import table
from potstill.evaluation.pages.evidence import behaviour_table, failure_lists, shift_table, slice_table
from potstill.evaluation.pages.figures import Figures
from potstill.evaluation.pages.report_page import TEMPLATE
from potstill.evaluation.pages.sheet import render
from potstill.evaluation.summary import Answers
from potstill.evaluation.teacher_forms import quantized_sentence
from potstill.kinds.definitions.kind import Kind
from potstill.kinds.definitions.task_kinds import kind_in
from potstill.labels.offsets import unit_classes
from potstill.scores.metrics import Doubles, Floats, Labels
from potstill.scores.scoring import Scoring

# Behavioural test -> model -> examples of failures, as `data/evaluation/behaviour.json` has them.
Failures = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Disagreement:
    """A test text on which teacher and student differ: in the class, a label, the number, the entities or the answer.

    The probabilities are None where the task has none: for numbers, entities and answers.
    """

    text: str
    gold: str
    teacher: str
    teacher_probability: float | None
    student: str
    student_probability: float | None


def disagreements(
    texts: Sequence[str], labels: Labels, teacher: Answers, student: Answers, names: Sequence[str], count: int
) -> list[Disagreement]:
    """Return texts on which the two differ, the most confident pairs or the most distant numbers first.

    Args:
        texts: [rows] as they were before tokenization.
        labels: [rows, ...] gold labels in the task's form.
        teacher: the teacher's answers.
        student: the student's answers.
        names: class names in index order.
        count: how many to return at most.
    """
    if teacher.kind.form == "number":
        return _distant_numbers(texts, labels, teacher.numbers, student.numbers, count)
    if teacher.kind.form == "labels":
        return _disputed_labels(texts, labels, teacher.probabilities, student.probabilities, names, count)
    teacher_confidence = teacher.probabilities.max(axis=1)
    student_confidence = student.probabilities.max(axis=1)
    differ = np.flatnonzero(student.predictions != teacher.predictions)
    confidence = np.minimum(student_confidence, teacher_confidence)[differ]
    order = differ[np.argsort(-confidence, kind="stable")][:count]
    return [
        Disagreement(
            texts[row], names[labels[row]],
            names[teacher.predictions[row]], float(teacher_confidence[row]),
            names[student.predictions[row]], float(student_confidence[row]),
        )
        for row in order
    ]  # fmt: skip


def _distant_numbers(
    texts: Sequence[str], gold: Labels, teacher: Floats, student: Floats, count: int
) -> list[Disagreement]:
    order = np.argsort(-np.abs(teacher - student), kind="stable")[:count]
    return [
        Disagreement(texts[row], _number(gold[row]), _number(teacher[row]), None, _number(student[row]), None)
        for row in order
        if teacher[row] != student[row]
    ]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _disputed_labels(
    texts: Sequence[str], gold: Labels, teacher: Doubles, student: Doubles, names: Sequence[str], count: int
) -> list[Disagreement]:
    """Return a text once for each disputed label; the probability is that of the answer, yes or no."""
    confidence = np.minimum(np.abs(teacher - 0.5), np.abs(student - 0.5))
    rows, labels = np.nonzero((teacher > 0.5) != (student > 0.5))
    order = np.argsort(-confidence[rows, labels], kind="stable")[:count]

    def answer(yes: bool, label: int) -> str:
        return names[label] if yes else f"not {names[label]}"

    disputed = []
    for row, label in zip(rows[order].tolist(), labels[order].tolist(), strict=True):
        of_teacher = float(teacher[row, label])
        of_student = float(student[row, label])
        disputed.append(
            Disagreement(
                texts[row], answer(gold[row, label] > 0, label),
                answer(of_teacher > 0.5, label), max(of_teacher, 1 - of_teacher),
                answer(of_student > 0.5, label), max(of_student, 1 - of_student),
            )
        )  # fmt: skip
    return disputed


def differing_spans(gold: GoldTags | GoldAnswers, teacher: Answers, student: Answers, count: int) -> list[Disagreement]:
    """Return the first texts of which teacher and student give other entities, or other answers."""
    if isinstance(gold, GoldTags):
        texts = gold.texts
        columns = [gold.entity_texts(gold.classes), *(_entity_texts(gold, model) for model in (teacher, student))]
    else:
        texts = [f"{question}\n{context}" for question, context in gold.questions]
        columns = [
            [" / ".join(dict.fromkeys(answers)) or "none" for answers in gold.gold],
            *([text or "none" for text in model.view(gold).answers(model.logits)] for model in (teacher, student)),
        ]
    differing = [
        Disagreement(text, right, of_teacher, None, of_student, None)
        for text, right, of_teacher, of_student in zip(texts, *columns, strict=True)
        if of_teacher != of_student
    ]
    return differing[:count]


def _entity_texts(gold: GoldTags, answers: Answers) -> list[str]:
    predictions = answers.logits.argmax(axis=1)
    return gold.entity_texts(unit_classes(predictions, answers.view(gold).visibility))


def render_report(
    *,
    project: str,
    metrics: Mapping[str, Any],
    figures: Figures,
    examples: Sequence[Disagreement],
    splits: Mapping[str, Mapping[str, int]],
    lineage: Mapping[str, str],
    failures: Failures | None = None,
    abstention: str = "",
) -> str:
    """Render the page, with a placeholder for the gate's verdict.

    Args:
        project: the project's name, for the title.
        metrics: the content of reports/metrics.json.
        figures: the task's figures.
        examples: texts on which teacher and student disagree; their text is escaped.
        splits: split -> `rows`, `tokens`, `truncated`.
        lineage: path of an input -> its sha256.
        failures: behavioural test -> model -> examples; their texts are escaped.
        abstention: what the threshold brings, in a sentence.
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
        score=[f"{100 * metrics['models'][candidate][scoring.key + end]:.1f}" for end in ("", "_low", "_high")],
        scoring=scoring,
        details=_details(metrics["models"][candidate], kind),
        form=kind.form,
        headers=[_one_line(title) for title in table.headers(metrics)],
        rows=table.rows(metrics),
        note=table.note(metrics),
        figures=figures,
        examples=examples,
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
    words = {"BEATS": "beats", "LOSES": "loses to", "NO DIFFERENCE": "cannot be told apart from"}[verdict["outcome"]]
    points = [f"{100 * verdict[part]:+.1f}" for part in ("difference", "low", "high")]
    over = "over the rows; of one training seed, so the noise of training is not in it"
    if seeds > 1:
        over = f"over the rows and {seeds} training seeds"
    return (
        f"The student {words} the {PROVEN[control].lower()} control: {points[0]} points of {scoring.words} on the same "
        f"test texts, {100 * metrics['confidence']:g}% interval {points[1]} to {points[2]} (paired bootstrap {over})."
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
