"""evaluate: compares teacher, student, both as INT8, controls and TF-IDF on the frozen test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json, sha256_file, whole_folder, write_json, write_manifest, write_text
from potstill.compute.precision import choose_device
from potstill.compute.processes import usable_cores
from potstill.compute.processor import processor_name
from potstill.config.base import SPLITS
from potstill.config.evaluation_params import Evaluate
from potstill.data.tokens.batches import TokenDataset, label_column
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ChecksumError
from potstill.evaluation.attributions import Attribution, attribute
from potstill.evaluation.baseline import Baseline, fit_baseline
from potstill.evaluation.class_scores import class_scores
from potstill.evaluation.contenders import served_student, teacher_pipeline
from potstill.evaluation.gold import read_gold, read_texts, readable, student_logits
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.latency import Speed, measure_side_by_side
from potstill.evaluation.naming import BASELINE, MODELS, QUANTIZED, SHIPPED, TITLES
from potstill.evaluation.notes import notes
from potstill.evaluation.pages.decision_page import Decision, with_decision
from potstill.evaluation.pages.differences import differing_rows, surest_errors
from potstill.evaluation.pages.figures import Figures
from potstill.evaluation.pages.plots import accuracy_against, accuracy_coverage, learning_curves
from potstill.evaluation.pages.report import render_report
from potstill.evaluation.pages.task_figures import task_figures
from potstill.evaluation.reference import reference_profile
from potstill.evaluation.summary import Answers, Gold, compare, score
from potstill.evaluation.teacher_forms import add_advantages, fastest_form
from potstill.evaluation.teacher_gain import Seed, flatten, prove, read_seeds
from potstill.evaluation.truncation import cut_rows, truncation
from potstill.inference.profile import answer_all
from potstill.inference.runtime import MODEL, ModelCard, Prediction, Student, Text, logits_of, read_card
from potstill.kinds.definitions.task_kinds import KINDS, kind_in
from potstill.kinds.task_names import TaskKind
from potstill.labels.offsets import IGNORED, flat_labels
from potstill.models.loading import load_classifier
from potstill.paths import PREPARED, TOKENS
from potstill.progress import Bar, progress, say
from potstill.registry.tracking import digest
from potstill.scores.metrics import Labels, require_finite
from tasks.evidence import FROZEN, Evidence, flat_metrics, gather
from tasks.learning import CONTROLS, open_tokens, read_temperature, teacher_logits, teacher_members, trained_controls
from tasks.shift import measure_shift
from tasks.stage import Result, Stage, main
from tasks.views import teachers_view

# Rows that the page lists on which teacher and candidate differ, errors, and texts whose words it weighs.
DIFFERING = 200
ERRORS = 100
WEIGHED = 6
# Texts between two steps of the progress bar.
STEP = 256
TRAIN = "train.parquet"
# Texts on which behavioural tests failed, in `data/evaluation/`.
FAILURES = "behaviour.json"
PROFILE = "profile.json"
# The column `served` of predictions.parquet.
_PLACE = [("start", pa.int32()), ("end", pa.int32())]
ENTITIES = pa.list_(pa.struct([("type", pa.string()), *_PLACE, ("text", pa.string()), ("score", pa.float64())]))
REPLY = pa.struct([("answer", pa.string()), *_PLACE, ("score", pa.float64()), ("windows", pa.int32())])


def run(stage: Stage) -> Result:
    """Make `data/evaluation/`, `reports/metrics.json` and `reports/student.html`, the report without a verdict."""
    test = open_tokens(stage).student.split("test")
    card = read_card(stage.deps["serving"])
    with TemporaryDirectory(prefix="potstill-") as temporary:
        students = _students(stage, Path(temporary))
    texts, gold = _gold(stage, test, students["student"])
    answers, int8_predictions = _answers(stage, test, texts, gold, students, card)
    baseline = _baseline(stage, card)
    if baseline is not None:
        answers[BASELINE] = baseline.answers(texts, card.kind)
    metrics = _metrics(stage, gold, answers, card)
    if not isinstance(gold, GoldTags | GoldAnswers):
        metrics["truncation"] = _truncation(stage, test, texts, gold, answers)
    metrics["proof"] = _proof(stage, test, gold, answers, card)
    shipped = students[SHIPPED[card.variant]]
    evidence = gather(stage, texts, gold, answers, shipped)
    metrics |= evidence.metrics
    with TemporaryDirectory(prefix="potstill-") as temporary:
        shift = measure_shift(stage, shipped, students.get(QUANTIZED), baseline, Path(temporary))
    if shift is not None:
        metrics["shift"] = shift
    figures = _figures(stage, gold, answers, metrics, card)
    _write_evaluation(stage, texts, gold, answers, int8_predictions, metrics, figures, evidence, shipped)
    metrics["evaluation_sha256"] = sha256_file(stage.outs["evaluation"] / MANIFEST)
    _add_speeds(metrics, _speeds(stage, texts, students, card, baseline), SHIPPED[card.variant])
    if baseline is not None:
        metrics["models"][BASELINE]["fit_seconds"] = baseline.fit_seconds
    _write_report(stage, texts, gold, answers, metrics, figures, evidence, shipped)
    write_json(stage.outs["metrics"], metrics)
    return _result(metrics, SHIPPED[card.variant])


def _gold(stage: Stage, test: TokenDataset, student: Student) -> tuple[Sequence[Text], Gold]:
    """Read the test texts as users would send them, and their gold labels."""
    texts, gold = read_gold(stage.deps["prepared"] / FROZEN, student)
    if isinstance(gold, GoldTags):
        flat = flat_labels(test.labels)
        same = np.array_equal(gold.token_classes, flat[flat != IGNORED])
    elif isinstance(gold, GoldAnswers):
        same = [len(window.ids) for row in gold.windows for window in row] == test.lengths.tolist()
    else:
        same = np.array_equal(gold, test.labels)
    if not same:
        raise ChecksumError(f"{TOKENS} and {PREPARED} hold different test rows; run the tokenize stage again")
    return texts, gold


def _students(stage: Stage, folder: Path) -> dict[str, Student]:
    """Load both exported files and, where there is one, the quantized teacher in the serving runtime."""
    export, serving = stage.deps["export"], stage.deps["serving"]
    students = {
        name: served_student(export / f"student.{variant}.onnx", variant, serving, folder / variant)
        for variant, name in (("fp32", "student"), ("int8", "int8"))
    }
    return students if "absent" in _quantized_facts(stage) else students | {QUANTIZED: Student(stage.deps[QUANTIZED])}


def _quantized_facts(stage: Stage) -> dict[str, Any]:
    """Read which teacher was quantized, or why none was (`absent`)."""
    facts: dict[str, Any] = read_json(stage.deps[QUANTIZED] / MANIFEST)["about"]
    return facts


def _answers(
    stage: Stage,
    test: TokenDataset,
    texts: Sequence[Text],
    gold: Gold,
    students: Mapping[str, Student],
    card: ModelCard,
) -> tuple[dict[str, Answers], list[Prediction]]:
    """Compute every model's logits over the test split, and the predictions of INT8 where the task labels texts."""
    answers = {}
    controls = trained_controls(stage)
    models = 2 + len(controls) + len(teacher_members(stage)) + (QUANTIZED in students)
    with stage.work("inference"), progress("evaluate", models * len(test), "rows") as bar:
        for name in ("teacher", "student", *controls):
            temperature = card.temperature if name == "student" else read_temperature(stage.deps[name])
            answers[name] = _torch_answers(stage, name, temperature, card.kind, bar)
        file = stage.deps["export"] / "student.int8.onnx"
        logits, predictions = _served_logits(students["int8"], texts, gold, file, bar)
        parameters = answers["student"].parameters
        answers["int8"] = Answers(logits, card.temperature, parameters, file.stat().st_size, card.kind)
        if QUANTIZED in students:
            answers[QUANTIZED] = _quantized_answers(stage, students[QUANTIZED], texts, gold, bar)
    return answers, predictions


def _quantized_answers(stage: Stage, teacher: Student, texts: Sequence[Text], gold: Gold, bar: Bar) -> Answers:
    """Compute the quantized teacher's answers; spans of a text in its own tokens."""
    own_gold = None
    if isinstance(gold, GoldTags | GoldAnswers):
        _, teacher_gold = read_gold(stage.deps["prepared"] / FROZEN, teacher)
        assert isinstance(teacher_gold, GoldTags | GoldAnswers)
        own_gold = teacher_gold
    file = stage.deps[QUANTIZED] / MODEL
    logits, _ = _served_logits(teacher, texts, gold if own_gold is None else own_gold, file, bar)
    return Answers(
        logits,
        teacher.card.temperature,
        _quantized_facts(stage)["parameters"],
        file.stat().st_size,
        teacher.card.kind,
        own_gold=own_gold,
    )


def _served_logits(
    student: Student, texts: Sequence[Text], gold: Gold, file: Path, bar: Bar
) -> tuple[Any, list[Prediction]]:
    """Compute a served model's logits, and its predictions where the task labels whole texts."""
    parts: list[Any] = []
    predictions: list[Prediction] = []
    for start in range(0, len(texts), STEP):
        part = slice(start, start + STEP)
        if isinstance(gold, GoldTags | GoldAnswers):
            parts.append(student_logits(student, texts, gold, part))
        else:
            predictions += student.predict(texts[part])
            parts.append(logits_of(predictions[part], student.card))
        bar.advance(min(STEP, len(texts) - start))
    logits = np.concatenate(parts)
    require_finite(logits, str(file))
    return logits, predictions


def _baseline(stage: Stage, card: ModelCard) -> Baseline | None:
    """Fit TF-IDF with a linear model on the train rows; None for a task of places in a text."""
    if KINDS[card.kind].marks_spans:
        return None
    with stage.work("training"):
        texts, labels = read_texts(stage.deps["prepared"] / TRAIN)
        baseline = fit_baseline(texts, labels, card.kind, len(card.labels))
    say(
        f"evaluate: TF-IDF with a linear model, fitted on {baseline.rows:,} of {baseline.of:,} rows of train in "
        f"{baseline.fit_seconds:.1f} s of CPU"
    )
    return baseline


def _torch_answers(stage: Stage, name: str, temperature: float, task: TaskKind, bar: Bar) -> Answers:
    """Compute a model's answers; of several teachers, their mean answers, with weights and file of the first."""
    folder = stage.deps[name]
    members = 1
    model = load_classifier(folder).to(choose_device(stage.project.device))
    if name == "teacher":
        logits = teacher_logits(stage, "test", bar.advance)
        members = len(teacher_members(stage))
    else:
        logits = predict_logits(model, open_tokens(stage).student.split("test"), advance=bar.advance)
        require_finite(logits, str(folder))
    # What would be served as fp32 is the exported file; the others are as large as their weights.
    files = [stage.deps["export"] / "student.fp32.onnx"] if name == "student" else folder.glob("*.safetensors")
    size = sum(path.stat().st_size for path in files)
    own_gold = teachers_view(stage, stage.deps["prepared"] / FROZEN) if name == "teacher" else None
    return Answers(logits, temperature, model.num_parameters(), size, task, members, own_gold)


def _truncation(
    stage: Stage, test: TokenDataset, texts: Sequence[Text], gold: Labels, answers: Mapping[str, Answers]
) -> dict[str, Any]:
    tokens = open_tokens(stage).student
    cut = cut_rows(texts, test.lengths, tokens.load_tokenizer())
    return {"max_length": tokens.info["max_length"]} | truncation(gold, answers, cut)


def _training_facts(stage: Stage, key: str) -> dict[str, Any]:
    """Read training -> `steps` or `curves` from the manifests of the trained models."""
    facts: dict[str, Any] = {}
    for out in ("teacher", "student", *trained_controls(stage)):
        facts |= read_json(stage.deps[out] / MANIFEST)["about"].get(key, {})
    return facts


def _metrics(stage: Stage, gold: Gold, answers: Mapping[str, Answers], card: ModelCard) -> dict[str, Any]:
    """Compute metrics.json without speeds, truncation, proof and evidence."""
    settings = stage.params(Evaluate)
    trimmed = open_tokens(stage).student.info.get("vocabulary")
    return ({} if trimmed is None else {"vocabulary": trimmed}) | {
        "task": card.kind,
        "shipped": card.variant,
        "rows": len(gold),
        "test_sha256": sha256_file(stage.deps["prepared"] / FROZEN),
        "serving_sha256": sha256_file(stage.deps["serving"] / MANIFEST),
        "confidence": settings.confidence,
        "calibration_bins": settings.calibration_bins,
        "steps": _training_facts(stage, "steps"),
        "quantized_teacher": _quantized_facts(stage),
        "models": {name: score(gold, answers[name], settings) for name in TITLES if name in answers},
        "comparison": compare(gold, answers, SHIPPED[card.variant], settings, seed=stage.project.seed),
        "classes": class_scores(
            gold,
            {name: answers[name] for name in (SHIPPED[card.variant], "teacher")},
            card.labels,
            settings.confidence,
        ),
    }


def _proof(
    stage: Stage, test: TokenDataset, gold: Gold, answers: Mapping[str, Answers], card: ModelCard
) -> dict[str, Any]:
    """Prove the teacher's gain on the first seed's student as it ships, and on the further seeds of the proof stage."""
    names = {"student": SHIPPED[card.variant], "pretrained": "control", "initialised": "initialised"}
    trained = {role: answers[name] for role, name in names.items() if name in answers}
    first = Seed(stage.project.seed, trained)
    seeds = [first, *read_seeds(stage.deps["proof"], test.labels)]
    return prove(gold, answers["teacher"], seeds, stage.params(Evaluate), bootstrap_seed=stage.project.seed)


def _figures(
    stage: Stage, gold: Gold, answers: Mapping[str, Answers], metrics: Mapping[str, Any], card: ModelCard
) -> Figures:
    kind = KINDS[card.kind]
    size = accuracy_against(metrics["models"], "megabytes", "MB on disk (log scale)", kind.scoring)
    compared = {name: answers[name] for name in MODELS if name in answers}
    coverage = accuracy_coverage(metrics["abstention"], SHIPPED[card.variant]) if "abstention" in metrics else ""
    parts = task_figures(kind, gold, compared, card.labels, stage.params(Evaluate))
    learning = learning_curves(_training_facts(stage, "curves"), kind.scoring.words)
    return Figures(size, coverage=coverage, learning=learning, **parts)


def _write_evaluation(
    stage: Stage,
    texts: Sequence[Text],
    gold: Gold,
    answers: Mapping[str, Answers],
    int8_predictions: list[Prediction],
    metrics: Mapping[str, Any],
    figures: Figures,
    evidence: Evidence,
    shipped: Student,
) -> None:
    """Write `data/evaluation/`, of which nothing depends on time: the same models give the same bytes."""
    ids = pq.read_table(stage.deps["prepared"] / FROZEN, columns=["id"]).column("id")
    with stage.work("inference"):
        has_answered = shipped.card.variant == "int8" and bool(int8_predictions)
        served: list[Any] = [*int8_predictions] if has_answered else answer_all(shipped, texts)
    columns = _predictions(gold, {name: answers[name] for name in TITLES if name in answers}, served)
    profile = reference_profile(shipped, texts, served, gold, metrics["serving_sha256"])
    with whole_folder(stage.outs["evaluation"]) as folder:
        pq.write_table(pa.table({"id": ids, **columns}), folder / "predictions.parquet")
        write_json(folder / PROFILE, profile.model_dump(mode="json"))
        write_json(folder / FAILURES, evidence.failures)
        for name, svg in figures.files().items():
            write_text(folder / "plots" / f"{name}.svg", svg)
        write_manifest(folder, {name: metrics[name] for name in ("shipped", "test_sha256", "serving_sha256")})


def _predictions(gold: Gold, answers: Mapping[str, Answers], served: Sequence[Any]) -> dict[str, pa.Array]:
    """Build the columns of predictions.parquet: gold labels, and each model's logits or, of questions, answers.

    Where answers are places in a text, `served` is a column too: the shipped model's answers to users, for smoke.
    """
    numbers = pa.list_(pa.float32())
    if isinstance(gold, GoldTags):
        label = pa.array(np.split(gold.classes, np.cumsum(gold.lengths)[:-1]), pa.list_(pa.int16()))
        logits = {
            name: pa.array([row.tolist() for row in model.view(gold).answers_by_row(model.logits)], pa.list_(numbers))
            for name, model in answers.items()
        }
        entities = [asdict(tagging)["entities"] for tagging in served]
        return {"label": label, **logits, "served": pa.array(entities, ENTITIES)}
    if isinstance(gold, GoldAnswers):
        texts = {name: pa.array(model.view(gold).answers(model.logits), pa.string()) for name, model in answers.items()}
        replies = [asdict(reply) for reply in served]
        return {"label": pa.array(gold.gold, pa.list_(pa.string())), **texts, "served": pa.array(replies, REPLY)}
    logits = {name: pa.array(list(model.logits), numbers) for name, model in answers.items()}
    return {"label": label_column(gold), **logits}


def _speeds(
    stage: Stage, texts: Sequence[Text], students: Mapping[str, Student], card: ModelCard, baseline: Baseline | None
) -> dict[str, Speed]:
    """Time each model from raw texts to probabilities."""
    settings = stage.params(Evaluate)
    teacher = teacher_pipeline(stage.deps["teacher"], card.max_length, card.kind, card.stride)
    calls: dict[str, Callable[[list[Text]], object]] = {"teacher": teacher}
    calls |= {name: partial(answer_all, student) for name, student in students.items()}
    calls |= {} if baseline is None else {BASELINE: baseline.logits}
    with stage.work("inference"):
        return measure_side_by_side(
            calls,
            texts,
            latency_texts=settings.latency_texts,
            throughput_texts=settings.throughput_texts,
            rounds=settings.rounds,
        )


def _add_speeds(metrics: dict[str, Any], speeds: Mapping[str, Speed], candidate: str) -> None:
    for name, speed in speeds.items():
        metrics["models"][name] |= asdict(speed)
    add_advantages(metrics, candidate)
    metrics["measured"] = {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{processor_name()}, {usable_cores()} cores",
    }


def _write_report(
    stage: Stage,
    texts: Sequence[Text],
    gold: Gold,
    answers: Mapping[str, Answers],
    metrics: Mapping[str, Any],
    figures: Figures,
    evidence: Evidence,
    shipped: Student,
) -> None:
    card = shipped.card
    rows = (
        [readable(text) for text in texts],
        gold,
        answers["teacher"],
        answers[SHIPPED[card.variant]],
        [str(label) for label in card.labels],
    )
    latency = accuracy_against(
        metrics["models"], "p50_ms", "median ms for one text (log scale)", kind_in(metrics).scoring
    )
    page = render_report(
        project=stage.project.name,
        metrics=metrics,
        figures=replace(figures, latency=latency),
        differing=differing_rows(*rows, DIFFERING),
        errors=surest_errors(*rows, ERRORS),
        attributions=_attributions(stage, texts, gold, answers[SHIPPED[card.variant]], shipped),
        failures=evidence.failures,
        abstention=evidence.abstention,
        splits={split: open_tokens(stage).info["splits"][split] for split in SPLITS},
        lineage={path.as_posix(): sha256_file(path / MANIFEST) for path in stage.deps.values()},
    )
    write_text(stage.outs["student"], page)
    # Not an out: the gate, which is no stage, writes it again with its verdict. Until then nobody reads an older one.
    write_text(stage.outs["student"].with_name("report.html"), with_decision(page, Decision(metrics)))


def _attributions(
    stage: Stage, texts: Sequence[Text], gold: Gold, answers: Answers, shipped: Student
) -> list[Attribution]:
    """Weigh the words of a few texts; none where answers are places in a text."""
    if isinstance(gold, GoldTags | GoldAnswers):
        return []
    with stage.work("inference"):
        return attribute(shipped, texts, gold, answers, WEIGHED)


def _comparison_numbers(comparison: Mapping[str, Any]) -> dict[str, float]:
    """Flatten the section `comparison` for MLflow; comparisons with another model are `over_<model>_<part>`."""
    numbers = {key: value for key, value in comparison.items() if not isinstance(value, dict)}
    for model, facts in comparison["rivals"].items():
        parts = facts | comparison.get(model, {})  # speed and size are next to the interval
        numbers |= {f"over_{model}_{part}": value for part, value in parts.items()}
    return {name: float(value) for name, value in numbers.items() if not isinstance(value, str)}


def _result(metrics: Mapping[str, Any], candidate: str) -> Result:
    models = metrics["models"]
    comparison = metrics["comparison"]
    key = kind_in(metrics).scoring.key
    numbers = {f"{name}_{part}": float(value) for name, model in models.items() for part, value in model.items()}
    numbers |= _comparison_numbers(comparison)
    numbers |= flatten(metrics["proof"])
    numbers |= flat_metrics(metrics, candidate)
    numbers |= {f"steps_{stage}": float(steps) for stage, steps in metrics["steps"].items()}
    if "truncation" in metrics:
        numbers |= {"cut_share": metrics["truncation"]["share"]}
    verdicts = ", ".join(f"{verdict['outcome']} {name}" for name, verdict in metrics["proof"]["verdicts"].items())
    controls = ", ".join(
        f"{MODELS[name].lower()} control {models[name][key]:.4f}" for name in CONTROLS if name in models
    )
    summary = (
        f"{MODELS[candidate]} {models[candidate][key]:.4f}, teacher {models['teacher'][key]:.4f}, "
        f"{controls} ({verdicts}), {comparison['speedup']:.1f}x the texts/s of {TITLES[fastest_form(metrics)]}"
    )
    summary = "; ".join([summary, *notes(metrics)])
    test = {"digest": digest(metrics["test_sha256"]), "source": f"{PREPARED}/{FROZEN}", "rows": metrics["rows"]}
    return Result(summary, numbers, datasets={"test": test})


if __name__ == "__main__":
    main(run)
