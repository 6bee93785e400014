"""gate: judges the candidate in `data/serving/` by reports/metrics.json, the limits of params and the champion.

It is no DVC stage, since the verdict depends on the registry's state. If the candidate cannot be judged, a check of the
verdict fails, so that only a judged candidate is promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.artifacts import MANIFEST, read_json, sha256_file, verify, write_json, write_text
from potstill.config.params import Params
from potstill.errors import PotstillError
from potstill.evaluation.gate_checks import Check, failed
from potstill.evaluation.gates import Verdict, judge, proof_in_words, wear_in_words
from potstill.evaluation.gold import read_gold, readable, student_logits
from potstill.evaluation.gold_spans import GoldAnswers, GoldTags
from potstill.evaluation.pages.decision_page import Decision, with_decision
from potstill.evaluation.pages.differences import Rows, differing_rows
from potstill.evaluation.slices import find_slices, judge_slices
from potstill.evaluation.summary import Answers, Gold, compare_pair, score
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.paths import DVC_FILE, EVALUATION, METRICS, PARAMS, REPORT, SERVING, STUDENT_PAGE, TEST_SPLIT, VERDICT
from potstill.registry import tracking
from potstill.scores.metrics import require_finite
from tasks.identity import PACKAGES, ROOT
from tasks.run_facts import run_facts

if TYPE_CHECKING:
    from potstill.inference.runtime import ModelCard, Student, Text
    from potstill.registry.versions import Version


# Rows that the page lists on which champion and candidate differ.
_DIFFERING = 200


@dataclass(frozen=True)
class SameRows:
    """Candidate and champion on the candidate's test split.

    Attributes:
        card: the candidate's.
        texts: [rows] of the split.
        gold: its gold labels.
        candidate: the candidate's answers.
        champion: the champion's.
    """

    card: ModelCard
    texts: Sequence[Text]
    gold: Gold
    candidate: Answers
    champion: Answers


@dataclass(frozen=True)
class Rescored:
    """The champion, scored again.

    Attributes:
        scores: its scores, with the candidate's `comparison` and `slices`; or a `problem`.
        rows: both models' answers, for the page; None with a problem.
    """

    scores: dict[str, Any]
    rows: SameRows | None = None


def gate(params: Params, workspace: Path, champion: Path | None, version: str | None = None) -> Verdict:
    """Judge the candidate, and write the verdict to `reports/gate.json` and into `reports/report.html`.

    A fault of candidate or champion fails a check and is never raised.

    Args:
        params: `gate` holds the limits.
        workspace: holds `data/` and `reports/` of a finished evaluate stage.
        champion: folder of the current champion, in the form of `data/serving/`; None while there is none.
        version: the champion's number, for the page.

    Raises:
        StoreError: MLflow's store, which knows how often the test split has judged, is not reachable.
    """
    metrics = _read_metrics(workspace / METRICS)
    rescored = None if champion is None else _rescore(champion, workspace, params)
    champion_scores = None if rescored is None else rescored.scores
    if metrics is None:
        message = f"{workspace / METRICS} is missing or not a JSON object; run the evaluate stage again"
        checks = [failed("metrics", message)]
        metrics = {}
    else:
        limits = judge(metrics, params.gate, champion_scores, params.prepare.task).checks
        checks = [*_check_files(metrics, workspace), *limits]
    if params.gate.require_clean_git:
        checks.append(_check_commit(workspace))
    test_uses = _count_test_uses(params, workspace, metrics)
    verdict = Verdict(tuple(checks), proof_in_words(metrics), wear_in_words(test_uses, params.gate))
    names = ("evaluation_sha256", "serving_sha256", "test_sha256")
    sums = {name: metrics[name] for name in names if isinstance(metrics.get(name), str)}
    facts = {**sums, "champion": champion_scores, "test_uses": test_uses}
    write_json(workspace / VERDICT, {**verdict.to_json(), **facts})
    page = workspace / STUDENT_PAGE
    if page.exists():  # the page of the evaluate stage, without the verdict
        decision = Decision(metrics, verdict, facts=run_facts(params, workspace, metrics))
        if rescored is not None:
            decision = replace(decision, champion={**rescored.scores, "version": version})
        if rescored is not None and rescored.rows is not None:
            decision = replace(decision, rows=_differing(rescored.rows))
        write_text(workspace / REPORT, with_decision(page.read_text(encoding="utf-8"), decision))
    return verdict


def judge_candidate(params: Params, workspace: Path, champion: Version | None) -> Verdict:
    """Judge the candidate as `gate` does, against a registered champion whose files are fetched first."""
    from potstill.registry.promotion import Registry

    if champion is None:
        return gate(params, workspace, None)
    folder = Registry(workspace, params.project.name).fetch(champion.version)
    return gate(params, workspace, folder, champion.version)


def _count_test_uses(params: Params, workspace: Path, metrics: Mapping[str, Any]) -> int | None:
    """Count the evaluations on the candidate's test split, its own included; None where no store knows of any."""
    test = metrics.get("test_sha256")
    if not isinstance(test, str) or not tracking.has_store(workspace):
        return None
    return tracking.count_evaluations(workspace, params.project.name, test) or None


def _read_metrics(path: Path) -> dict[str, Any] | None:
    try:
        metrics = read_json(path)
    except (OSError, ValueError):
        return None
    return metrics if isinstance(metrics, dict) else None


def _check_files(metrics: Mapping[str, Any], workspace: Path) -> list[Check]:
    """Check that the numbers are those of the files that would be promoted, and that these files are intact."""
    files: dict[str, tuple[Path, Callable[[Path], str]]] = {
        "serving_sha256": (SERVING, _manifest_sum),
        "evaluation_sha256": (EVALUATION, _manifest_sum),
        "test_sha256": (TEST_SPLIT, sha256_file),
    }
    checks = []
    for name, (path, compute_sum) in files.items():
        try:
            current = compute_sum(workspace / path)
        except (OSError, PotstillError) as error:
            checks.append(failed(name, f"{path} cannot be verified: {error}"))
            continue
        if current == metrics.get(name):
            checks.append(Check(name, None, None, True, f"{METRICS} is about the current {path}"))
        else:
            checks.append(failed(name, f"{METRICS} is not about the current {path}; run the evaluate stage again"))
    return checks


def _check_commit(workspace: Path) -> Check:
    """Check that params, pipeline and code are committed, so that they can be reviewed."""
    name = "require_clean_git"
    changed = tracking.uncommitted(workspace, (PARAMS, DVC_FILE))
    if changed is None:
        return failed(name, f"{workspace} is in no git repository with a commit, which fails gate.{name}")
    # Installed code is in no repository: its release names it.
    changed += tracking.uncommitted(ROOT, [Path(name) for name in PACKAGES if tracking.is_tracked(ROOT, name)]) or []
    if changed:
        return failed(name, f"not as in the commit: {', '.join(changed)} (gate.{name}); commit and run again")
    return Check(name, None, None, True, f"{PARAMS}, {DVC_FILE} and the code are as in the commit")


def _manifest_sum(folder: Path) -> str:
    verify(folder)
    return sha256_file(folder / MANIFEST)


def _rescore(champion: Path, workspace: Path, params: Params) -> Rescored:
    """Score the champion on the candidate's test split, or say what prevents it."""
    from potstill.inference.runtime import Student, read_card

    try:
        candidate = read_card(workspace / SERVING)
        student = Student(champion)
        problem = _mismatch(student.card, candidate)
        return Rescored({"problem": problem}) if problem else _compare(student, candidate, workspace, params)
    except Exception as error:  # onnxruntime has exceptions of its own, and no champion may stop the verdict
        message = " ".join(str(error).split())
        problem = message if isinstance(error, PotstillError) else f"{type(error).__name__}: {message[:300]}"
        return Rescored({"problem": problem})


def _mismatch(champion: ModelCard, candidate: ModelCard) -> str | None:
    """Say why the two models do not answer the same question; None where they do, in any order of the labels."""
    if champion.kind != candidate.kind:
        return (
            f"it is for {champion.kind}, the candidate for {candidate.kind}; give the project a new name "
            "(project.name) or take that champion back (`potstill veto VERSION --reason TEXT`)"
        )
    if champion.pair != candidate.pair:
        return "one of champion and candidate takes single texts and the other pairs"
    champion_labels = sorted(map(str, champion.labels))
    candidate_labels = sorted(map(str, candidate.labels))
    if champion_labels == candidate_labels:
        return None
    return (
        f"its labels ({', '.join(champion_labels)}) are not the candidate's ({', '.join(candidate_labels)}); "
        "if the task has changed, give the project a new name (project.name) or take that champion back "
        "(`potstill veto VERSION --reason TEXT`)"
    )


def _compare(champion: Student, card: ModelCard, workspace: Path, params: Params) -> Rescored:
    """Score the champion, and compare the candidate with it row by row."""
    from potstill.inference.runtime import Student

    champion_gold, champion_answers, _ = _answers(champion, card, workspace / TEST_SPLIT)
    scores = score(champion_gold, champion_answers, params.evaluate)
    del scores["parameters"]  # a served folder does not tell their number
    gold, answers, texts = _answers(Student(workspace / SERVING), card, workspace / TEST_SPLIT)
    if isinstance(champion_gold, GoldTags | GoldAnswers):
        champion_answers = replace(champion_answers, own_gold=champion_gold)
    comparison = compare_pair(gold, answers, champion_answers, params.evaluate, params.project.seed)
    rows = SameRows(card, texts, gold, answers, champion_answers)
    evidence = {"comparison": comparison.to_json() | {"rows": len(gold)}, "slices": _slices(rows, workspace, params)}
    return Rescored({**scores, **evidence}, rows)


def _slices(rows: SameRows, workspace: Path, params: Params) -> dict[str, Any]:
    """Compare candidate and champion on each slice."""
    import pyarrow.parquet as pq

    table = pq.read_table(workspace / TEST_SPLIT)
    evaluate = params.evaluate
    slices = find_slices(table, evaluate.slices, KINDS[rows.card.kind], rows.card.labels)
    models = {"candidate": rows.candidate, "champion": rows.champion}
    report = judge_slices(slices, rows.gold, models, "candidate", ["champion"], evaluate, seed=params.project.seed)
    return report.to_json()


def _differing(rows: SameRows) -> Rows:
    """List the test rows on which champion and candidate differ, for the page."""
    names = [str(label) for label in rows.card.labels]
    lines = [readable(text) for text in rows.texts]
    return differing_rows(lines, rows.gold, rows.champion, rows.candidate, names, _DIFFERING)


def _answers(student: Student, card: ModelCard, test: Path) -> tuple[Gold, Answers, Sequence[Text]]:
    """Ask a served model through its own tokenizer, with its labels matched to the candidate's by name."""
    from potstill.inference.runtime import MODEL

    order = [[str(label) for label in student.card.labels].index(str(label)) for label in card.labels]
    texts, gold = read_gold(test, student)
    logits = student_logits(student, texts, gold)
    require_finite(logits, "it")
    if card.form != "span":  # its logits have no labels
        logits = logits[:, order]
    file_bytes = (student.folder / MODEL).stat().st_size
    return gold, Answers(logits, student.card.temperature, 0, file_bytes, card.kind), texts
