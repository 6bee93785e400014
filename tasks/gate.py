"""gate: judge the candidate that `data/serving/` holds by reports/metrics.json, the params' limits and the champion.

Not a DVC stage: the verdict depends on the registry's state. Everything that keeps the candidate from being judged is a
failed check of the verdict, so that nothing unknown is ever promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.artifacts import MANIFEST, read_json, sha256_file, verify, write_json, write_text
from potstill.config.params import Params
from potstill.errors import PotstillError
from potstill.evaluation.gates import Check, Verdict, failed, judge, proof_in_words
from potstill.evaluation.gold import read_gold, student_logits
from potstill.evaluation.pages.verdict_page import with_verdict
from potstill.evaluation.summary import Answers, score_value
from potstill.scores.metrics import require_finite
from potstill.scores.scoring import SCORINGS

if TYPE_CHECKING:
    from potstill.inference.runtime import ModelCard, Student

METRICS = Path("reports/metrics.json")
VERDICT = Path("reports/gate.json")
# What evaluate says of the candidate, and the same page with the verdict.
PAGE, REPORT = Path("reports/student.html"), Path("reports/report.html")
TEST = Path("data/prepared/test.parquet")


def gate(params: Params, workspace: Path, champion: Path | None) -> Verdict:
    """Judge the candidate, and write `reports/gate.json` and the verdict into `reports/report.html`.

    Never raises for what is wrong with candidate or champion.

    Args:
        params: `gate` holds the limits.
        workspace: holds `data/` and `reports/` of a finished evaluate stage.
        champion: folder of the current champion, in the form of `data/serving/`; None while there is none.
    """
    metrics, unreadable = _read_metrics(workspace / METRICS)
    rival = None
    if champion is not None and params.gate.max_loss_to_champion is not None:
        rival = _rescore(champion, workspace)
    checks = (
        [unreadable]
        if unreadable
        else [*_belongs(metrics, workspace), *judge(metrics, params.gate, rival, params.prepare.task).checks]
    )
    verdict = Verdict(tuple(checks), proof_in_words(metrics))
    about = {name: metrics.get(name) for name in ("evaluation_sha256", "serving_sha256", "test_sha256")}
    sums = {name: value for name, value in about.items() if isinstance(value, str)}
    write_json(workspace / VERDICT, {**verdict.to_json(), **sums, "champion": rival})
    _write_report(workspace, verdict)
    return verdict


def _write_report(workspace: Path, verdict: Verdict) -> None:
    """The page that evaluate made, with the verdict; there is none to write where it made none."""
    page = workspace / PAGE
    if page.exists():
        write_text(workspace / REPORT, with_verdict(page.read_text(encoding="utf-8"), verdict))


def _read_metrics(path: Path) -> tuple[Mapping[str, Any], Check | None]:
    try:
        metrics = read_json(path)
    except (OSError, ValueError):
        metrics = None
    if isinstance(metrics, dict):
        return metrics, None
    return {}, failed("metrics", f"{path} is missing or not a JSON object; run the evaluate stage again")


def _belongs(metrics: Mapping[str, Any], workspace: Path) -> list[Check]:
    """The numbers are those of the files that would be promoted, and those files are whole."""
    named: dict[str, tuple[str, Callable[[Path], str]]] = {
        "serving_sha256": ("data/serving", _manifest_sum),
        "evaluation_sha256": ("data/evaluation", _manifest_sum),
        "test_sha256": (TEST.as_posix(), sha256_file),
    }
    checks = []
    for name, (path, identify) in named.items():
        try:
            found: str | None = identify(workspace / path)
        except (OSError, PotstillError) as error:
            checks.append(failed(name, f"{path} cannot be verified: {error}"))
            continue
        same = found == metrics.get(name)
        words = f"{METRICS} is {'' if same else 'not '}about the current {path}"
        checks.append(Check(name, None, None, same, words if same else f"{words}; run the evaluate stage again"))
    return checks


def _manifest_sum(folder: Path) -> str:
    verify(folder)
    return sha256_file(folder / MANIFEST)


def _rescore(champion: Path, workspace: Path) -> dict[str, Any]:
    """The champion's score on the candidate's test split by name, or the `problem` that keeps it from being known."""
    from potstill.inference.runtime import Student, read_card

    try:
        ours, student = read_card(workspace / "data/serving"), Student(champion)
        misfit = _misfit(student.card, ours)
        return {"problem": misfit} if misfit else _score(student, ours, workspace / TEST)
    except Exception as error:  # onnxruntime has bare kinds of its own, and no champion may stop the verdict
        said = " ".join(str(error).split())
        return {"problem": said if isinstance(error, PotstillError) else f"{type(error).__name__}: {said[:300]}"}


def _misfit(theirs: ModelCard, ours: ModelCard) -> str | None:
    """Why the two do not answer the same question; None where they do. The order of the labels does not matter."""
    if theirs.kind != ours.kind:
        return (
            f"it is for {theirs.kind}, the candidate for {ours.kind}; give the project a new name (project.name) or "
            "take that champion back (`potstill veto VERSION --reason TEXT`)"
        )
    if theirs.pair != ours.pair:
        return "one of champion and candidate takes single texts and the other pairs"
    old, new = (sorted(map(str, card.labels)) for card in (theirs, ours))
    if old == new:
        return None
    return (
        f"its labels ({', '.join(old)}) are not the candidate's ({', '.join(new)}); "
        "if the task has changed, give the project a new name (project.name) or take that champion back "
        "(`potstill veto VERSION --reason TEXT`)"
    )


def _score(champion: Student, ours: ModelCard, test: Path) -> dict[str, float]:
    """Through the champion's own tokenizer, with the labels matched by name."""
    scoring = SCORINGS[ours.kind]
    order = [[str(label) for label in champion.card.labels].index(str(label)) for label in ours.labels]
    texts, gold = read_gold(test, champion)
    logits = student_logits(champion, texts, gold)
    require_finite(logits, "it")
    if ours.kind != "question_answering":  # whose logits have no labels
        logits = logits[:, order]
    return {scoring.key: score_value(gold, Answers(logits, 1.0, 0, 0, ours.kind))}
